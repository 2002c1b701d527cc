"""LaVIN's prompt: pieces tokenised apart, the image line first, images resized without cropping."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.models.encoding import encode
from lookaway.models.lavin.processor import LavinProcessor, lavin_image_processor


def processor():
    """A character tokenizer with 97 entries, so that the image token is id 97."""
    letters = [chr(i) for i in range(32, 127)][:93]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "\n": 3, **{letter: 4 + i for i, letter in enumerate(letters)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return LavinProcessor(lavin_image_processor(16), tokenizer, image_seq_length=2)


def sample(*content):
    images = tuple(Image.new("RGB", (20, 10), "red") for part in content if part["type"] == "image")
    return Sample("a", [{"role": "user", "content": list(content)}], images)


IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "Hi?"}


def test_the_image_line_comes_first_wherever_the_image_stands():
    reader = processor()
    for content in ((IMAGE, TEXT), (TEXT, IMAGE)):
        ids = encode(reader, [sample(*content)]).inputs["input_ids"][0].tolist()
        plain = reader.tokenizer("Image: ")["input_ids"]
        assert ids == [1, *plain, 97, 97, *reader.tokenizer("Hi?")["input_ids"]]
    ids = encode(reader, [sample(TEXT)]).inputs["input_ids"][0].tolist()
    assert ids == [1, *reader.tokenizer("Image: N/AHi?")["input_ids"]]


class Recorder:
    """A tokenizer that only notes what it is given."""

    bos_token_id, pad_token_id = 1, 0

    def __init__(self):
        self.seen = []

    def __call__(self, text, **kwargs):
        self.seen.append(text)
        return {"input_ids": [7]}

    def convert_tokens_to_ids(self, token):
        return 97


def test_pieces_are_tokenised_apart():
    """A tokenizer that merges across the border would otherwise join the two."""
    reader = processor()
    reader.tokenizer = Recorder()
    assert reader._ids("Image: N/AQuestion", True) == [1, 7, 7]
    assert reader._ids("Image: <image>Question", True) == [1, 7, 97, 97, 7]
    assert reader.tokenizer.seen == ["Image: N/A", "Question", "Image: ", "Question"]


def test_batches_are_left_padded_with_the_published_id():
    features = encode(processor(), [sample(IMAGE, TEXT), sample(TEXT)], answers=["A", "B"])
    ids, mask = features.inputs["input_ids"], features.inputs["attention_mask"]
    assert ids.shape == mask.shape
    assert (ids[mask == 0] == 0).all()
    assert mask[:, -1].all()
    assert features.inputs["pixel_values"].shape == (1, 3, 16, 16)


def test_pixels_are_squeezed_and_normalised_as_imagenet():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 48, 3), dtype=np.uint8))
    found = lavin_image_processor(16)(picture, return_tensors="np")["pixel_values"][0]
    small = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_images_and_image_tokens_must_match():
    with pytest.raises(DataError, match="1 image tokens for 0 images"):
        processor()(text="Image: <image>x")
    with pytest.raises(DataError, match="needs text"):
        processor()(images=[Image.new("RGB", (4, 4))])
