"""Smaller pictures: sizes by hand, fewer tokens where they follow from the size, refused where they do not."""

import copy

import pytest
from PIL import Image
from prepared import prepared

import lookaway as la
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.record import Sample
from lookaway.models.encoding import encode


def asked(image):
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    return Sample("one", [{"role": "user", "content": content}], (image,))


@pytest.mark.parametrize(
    ("size", "share", "expected"), [((100, 60), 0.25, (50, 30)), ((100, 60), 1.0, (100, 60)), ((3, 1), 0.01, (1, 1))]
)
def test_a_picture_has_its_share_of_the_pixels(tmp_path, size, share, expected):
    image = Image.new("RGB", size, (10, 200, 30))
    assert la.smaller_picture(image, share).size == expected
    assert la.smaller_picture(image, share).getpixel((0, 0)) == (10, 200, 30)
    image.save(tmp_path / "one.png")
    assert la.smaller_picture(tmp_path / "one.png", share).size == expected


def test_a_processor_that_follows_the_size_makes_fewer_tokens():
    processor = copy.copy(prepared("qwen2_5_vl").processor)
    whole = asked(Image.new("RGB", (16, 64)))
    processor.visual_tokens = {"64": 32, "32": 16}
    (smaller,) = la.smaller_pictures(processor, [whole], 0.25)
    assert smaller.images[0].size == (8, 32)
    assert (
        encode(processor, [whole]).inputs["input_ids"].shape[1] - 16
        == (encode(processor, [smaller]).inputs["input_ids"].shape[1])
    )


def test_what_gains_nothing_is_refused_with_the_cure():
    samples = [asked(Image.new("RGB", (64, 64)))]
    with pytest.raises(SettingsError, match=r"as many visual tokens.*la\.Downsample"):
        la.smaller_pictures(tiny_processor(), samples, 0.25)
    assert la.smaller_pictures(tiny_processor(), samples, 1.0)[0].images[0].size == (64, 64)
    for share in (0, 1.5, -1):
        with pytest.raises(SettingsError, match="above 0 and at most 1"):
            la.smaller_picture(samples[0].images[0], share)
    with pytest.raises(DataError, match="no image file"):
        la.smaller_picture("nowhere.png", 0.5)
