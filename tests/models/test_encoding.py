"""Samples become the tensors that the model would see, and what does not fit is named."""

import pytest
import torch
from PIL import Image

from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.models.encoding import encode, group_by_image, open_image


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def sample(name, question, *images):
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
    return Sample(name, [{"role": "user", "content": content}], tuple(images))


def picture(colour="red", mode="RGB"):
    return Image.new(mode, (20, 14), colour)


def test_prompts_are_left_padded_and_the_model_takes_them(processor):
    batch = encode(processor, [sample("a", "what colour?", picture()), sample("b", "hi")])
    assert batch.answer_mask is None
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert processor.tokenizer.decode(ids[0, -14:]) == "what colour?\na:"[-14:]
    assert (ids == 5).sum(1).tolist() == [16, 0]
    assert mask[0].all()
    assert mask[1].tolist() == sorted(mask[1].tolist())
    out = tiny("llava").model.generate(**batch.inputs, max_new_tokens=2, do_sample=False)
    assert len(out) == 2


def test_answers_follow_the_prompt_and_end(processor):
    samples = [sample("a", "what?", picture()), sample("b", "what colour?", picture())]
    prompts = encode(processor, samples)
    batch = encode(processor, samples, answers=["red", [10, 11, 2]])
    ids, mask = batch.inputs["input_ids"], batch.answer_mask
    assert [row[m].tolist() for row, m in zip(ids, mask, strict=True)] == [
        [*processor.tokenizer("red")["input_ids"], 2],
        [10, 11, 2],
    ]
    for row in range(2):
        real = batch.inputs["attention_mask"][row].bool()
        before = prompts.inputs["input_ids"][row][prompts.inputs["attention_mask"][row].bool()]
        assert torch.equal(ids[row][real & ~mask[row]], before)
        assert real[-1]
    assert torch.equal(batch.inputs["pixel_values"], prompts.inputs["pixel_values"])


def test_greedy_generation_gives_the_answer_iff_the_argmax_agrees(processor):
    model = tiny("llava").model
    samples = [sample("a", "what?", picture()), sample("b", "why", picture("blue")), sample("c", "no picture")]
    prompts = encode(processor, samples)
    width = prompts.inputs["input_ids"].shape[1]
    own = model.generate(**prompts.inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)[:, width:]
    batch = encode(processor, samples, answers=[row.tolist() for row in own])
    with torch.no_grad():
        said = model(**batch.inputs).logits.argmax(-1)
    for row in range(3):
        positions = batch.answer_mask[row].nonzero().flatten()[:5]
        assert said[row, positions - 1].tolist() == own[row].tolist()


def test_paths_and_other_modes(processor, tmp_path):
    picture("red").save(tmp_path / "a.png")
    by_path = encode(processor, [sample("a", "x", tmp_path / "a.png")])
    by_image = encode(processor, [sample("a", "x", picture("red"))])
    assert torch.equal(by_path.inputs["pixel_values"], by_image.inputs["pixel_values"])
    grey = encode(processor, [sample("a", "x", picture(128, "L"))])
    assert grey.inputs["pixel_values"].shape == (1, 3, 16, 16)


def test_a_text_content_may_be_a_plain_string(processor):
    assert encode(processor, [Sample("a", [{"role": "user", "content": "hello"}])]).inputs["input_ids"].shape[0] == 1


def test_what_does_not_fit_is_named(processor, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    two = Sample("two", [{"role": "user", "content": [{"type": "image"}]}], (picture(), picture()))
    none = Sample("none", [{"role": "user", "content": [{"type": "image"}]}])
    cases = [
        ([two], r"'two' has 2 image\(s\) for 1 image placeholder"),
        ([none], r"'none' has 0 image\(s\) for 1"),
        ([sample("a", "x", tmp_path / "missing.png")], "no image file .*missing.png"),
        ([sample("a", "x", tmp_path / "broken.png")], "broken.png.*cannot be read"),
        ([sample("a", "x", 7)], "must be a path or a PIL image"),
        ([], "no sample"),
    ]
    for samples, message in cases:
        with pytest.raises(DataError, match=message):
            encode(processor, samples)
    with pytest.raises(DataError, match="2 answers were given for 1"):
        encode(processor, [sample("a", "x")], answers=["a", "b"])


def test_a_processor_without_chat_template_is_named(processor):
    bare = tiny_processor()
    bare.chat_template = bare.tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        encode(bare, [sample("a", "x", picture())])


def test_questions_of_one_image_stay_together():
    first, second = picture(), picture()
    samples = [sample(str(i), "x", second if i % 2 else first) for i in range(6)] + [sample("n", "x")]
    batches = group_by_image(samples, 4)
    assert [[s.id for s in batch] for batch in batches] == [["0", "2", "4"], ["1", "3", "5", "n"]]
    assert [len(batch) for batch in group_by_image(samples, 2)] == [2, 1, 2, 2]


@pytest.mark.parametrize("answer_type", [0, 1])
def test_token_types_go_on_behind_the_prompt(answer_type):
    from lookaway.models.encoding import _append

    prompt = {
        "input_ids": torch.tensor([[0, 5, 5, 20], [5, 5, 30, 31]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]),
        "token_type_ids": torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]),
        "mm_token_type_ids": torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.int32),
    }
    inputs, mask = _append(prompt, [[40, 2], [2]], pad_id=0, answer_type=answer_type)
    a = answer_type
    assert inputs["input_ids"].tolist() == [[5, 5, 20, 40, 2], [5, 5, 30, 31, 2]]
    assert inputs["attention_mask"].tolist() == [[1] * 5] * 2
    assert inputs["token_type_ids"].tolist() == [[1, 1, 0, a, a], [1, 1, 0, 0, a]]
    assert inputs["mm_token_type_ids"].tolist() == [[1, 1, 0, 0, 0]] * 2
    assert inputs["mm_token_type_ids"].dtype == torch.int32
    assert mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_a_viewer_does(orientation, tmp_path):
    """A camera's file of a landscape whose top left corner is red, held in each of the eight ways EXIF knows."""
    upright = Image.new("RGB", (32, 16), "blue")
    upright.paste("red", (0, 0, 16, 8))
    ways = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")
    stored = upright.transpose(Image.Transpose[ways[orientation - 2]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    from_path = open_image(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as opened:
        from_pil = open_image(opened)
        for image in (from_path, from_pil, open_image(from_pil)):  # turned once, not twice
            assert image.size == (32, 16)
            assert image.tobytes() == upright.tobytes()


def test_a_picture_of_too_many_pixels_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (30, 30)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png' has more than 200 pixels.*Scale it down"):
        open_image(tmp_path / "huge.png")


@pytest.mark.parametrize("answer", ["<image> red", [10, 5, 11]])
def test_an_answer_that_holds_the_token_of_pictures_is_named(processor, answer):
    with pytest.raises(DataError, match=r"answer of sample 'b' .* holds '<image>'"):
        encode(processor, [sample("a", "what?"), sample("b", "what?", picture())], answers=["red", answer])
