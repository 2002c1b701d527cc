"""Videos: their frames' own features under their own placeholders, on the families that take them.

Removal inside the decoder equals masking, removal before it equals the shorter prompt built by hand, for one video, and
for a batch of a video, a picture and a text, and for the tokens decoded behind them.
"""

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, PAD, VIDEO, VOCAB, tiny
from lookaway.anatomy.tiny.tiled import TILE
from lookaway.core.errors import SettingsError
from lookaway.engine.entry_check import KeepSome, calls_of_decoder, row_by_hand
from lookaway.engine.prefill.start import prompt_layout

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FRAMES = 2
NEW = 4
GREEDY = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "suppress_tokens": [IMAGE, VIDEO]}


def patches(draw):
    """Two frame pairs of 4 x 4 patches, merged 2 x 2: four visual tokens each."""
    pixels = torch.randn(FRAMES * 16, 3 * 2 * 4 * 4, generator=draw)
    return {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[FRAMES, 4, 4]])}


def frames(draw):
    return {"pixel_values_videos": torch.randn(1, FRAMES, 3, 16, 16, generator=draw)}


def shots(draw):
    """As SmolVLM's processor gives a video: its frames are the pictures of the row, one tile each."""
    return {"pixel_values": torch.randn(1, FRAMES, 3, TILE, TILE, generator=draw)}


def whole(count):
    return [VIDEO] * count


def by_frame(count):
    """Frames apart, with a time stamp in front of each."""
    return [20, *[VIDEO] * (count // FRAMES), 21, *[VIDEO] * (count // FRAMES)]


def under_the_image_id(count):
    start, end = VOCAB - 3, VOCAB - 4
    half = count // FRAMES
    return [start, 20, *[IMAGE] * half, 21, *[IMAGE] * half, end]


def as_pictures(count):
    """Frames apart under the image's id, with a time stamp in front of each."""
    return [IMAGE if token == VIDEO else token for token in by_frame(count)]


VIDEOS = {
    "qwen2_vl": (patches, whole),
    "qwen2_5_vl": (patches, whole),
    "qwen3_vl": (patches, by_frame),
    "qwen3_5": (patches, by_frame),
    "glm4v": (patches, under_the_image_id),
    "llava_onevision": (frames, whole),
    "llava_next_video": (frames, whole),
    "smolvlm": (shots, as_pictures),
}
"""Family -> (a video as its processor gives it, its placeholders)."""


def token_types(rows, is_video):
    """1 for pictures, 2 for videos; GLM's frames stand under the image's id in rows with a video."""
    types = [[(2 if video or id == VIDEO else 1) if id in (IMAGE, VIDEO) else 0 for id in row]
             for row, video in zip(rows, is_video, strict=True)]  # fmt: skip
    return torch.tensor(types, dtype=torch.int32)


def cases(names):
    """(family, batch): transformers' GLM-4V cannot tell a picture's placeholders from a video's in one batch."""
    return [(name, batch) for name in names for batch in ("single", "mixed") if (name, batch) != ("glm4v", "mixed")]


def features_of(model, video):
    if "pixel_values" in video:
        return model.get_image_features(**video).pooler_output
    return model.get_video_features(**video).pooler_output


def beside_pictures(video, picture):
    """A video's frames, a picture's tiles and a row without any: rows are filled up with tiles of zeros."""
    pixels = torch.zeros(3, max(video.shape[1], picture.shape[1]), *video.shape[2:])
    pixels[0, : video.shape[1]], pixels[1, : picture.shape[1]] = video[0], picture[0]
    return {"pixel_values": pixels, "pixel_attention_mask": (pixels != 0).any(dim=2)}


def inputs_of(example, family, batch):
    make, placeholders = VIDEOS[family]
    draw = torch.Generator().manual_seed(5)
    video = make(draw)
    with torch.no_grad():
        features = features_of(example.model, video)
    count = sum(len(part.reshape(-1, part.shape[-1])) for part in features)
    rows = [[11, 12, *placeholders(count), 13, 14, 15]]
    images = {}
    if batch == "mixed":
        single = example.inputs("single")
        images = {name: value for name, value in single.items() if name.startswith(("pixel", "image_"))}
        rows += [single["input_ids"][0].tolist(), [30, 31, 32]]
        if "pixel_values" in video:
            images, video = {}, beside_pictures(video["pixel_values"], single["pixel_values"])
    width = max(map(len, rows))
    padded = [[PAD] * (width - len(row)) + row for row in rows]
    ids = torch.tensor(padded)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), **images, **video}
    if "video_grid_thw" in video:
        inputs["mm_token_type_ids"] = token_types(padded, [row == 0 for row in range(len(rows))])
    return inputs, count


@pytest.mark.parametrize(("family", "batch"), cases(name for name in VIDEOS if name != "qwen3_5"))
def test_removal_inside_equals_masking(family, batch):
    example = tiny(family)
    inputs, count = inputs_of(example, family, batch)
    exits = [3, 2, None][: len(inputs["input_ids"])]
    with torch.no_grad():
        with la.reference(example.model, la.ExitAt(exits)) as masking:
            expected = example.model(**inputs).logits
        with la.attach(example.model, la.ExitAt(exits)) as run:
            found = example.model(**inputs).logits
            index, valid = run.kept_columns()
    assert run.trace.initial_visual_tokens[0] == count
    assert run.trace.exit_layers == masking.trace.exit_layers == exits
    wanted = expected.gather(1, index[..., None].expand(-1, -1, expected.shape[-1]))
    torch.testing.assert_close(found[valid], wanted[valid], **TOLERANCE)


@pytest.mark.parametrize(("family", "batch"), cases(VIDEOS))
def test_removal_before_the_decoder_is_the_shorter_prompt(family, batch):
    example = tiny(family)
    anatomy = la.anatomy(example.model)
    inputs, _ = inputs_of(example, family, batch)
    rows = len(inputs["input_ids"])
    with torch.no_grad():
        with la.attach(example.model, KeepSome([3, 5, 0])) as run:
            found = example.model(**inputs).logits
            index, valid = run.kept_columns()
            new = example.model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
        plain = calls_of_decoder(anatomy, inputs, new)
        for row in range(rows):
            states, *behind = row_by_hand(anatomy, plain, row, index[row, valid[row]])
            torch.testing.assert_close(found[row, valid[row]], anatomy.head(states), **TOLERANCE)
            scores = anatomy.head(torch.stack([part[-1] for part in (states, *behind[: NEW - 1])]))
            scores[:, [*GREEDY["suppress_tokens"], example.model.generation_config.eos_token_id]] = -torch.inf
            assert scores.argmax(-1).tolist() == new[row].tolist()  # greedy decoding by hand
    assert run.trace.visual_tokens[0] == [3, 5, 0][:rows]


@pytest.mark.parametrize(("family", "batch"), cases(name for name in VIDEOS if name != "qwen3_5"))
def test_greedy_decoding_behind_a_video_equals_masking(family, batch):
    example = tiny(family)
    inputs, _ = inputs_of(example, family, batch)
    exits = [3, 2, None][: len(inputs["input_ids"])]
    answers = []
    for how in (la.attach, la.reference):
        with torch.no_grad(), how(example.model, la.ExitAt(exits)):
            said = example.model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
        answers.append((said.sequences, torch.stack(said.logits)))
    (ours, found), (theirs, expected) = answers
    assert ours.shape[1] == inputs["input_ids"].shape[1] + NEW
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_video", "smolvlm"])
def test_the_video_reaches_the_answer(family):
    example = tiny(family)
    inputs, _ = inputs_of(example, family, "single")
    pixels = "pixel_values" if family == "smolvlm" else "pixel_values_videos"
    other = {**inputs, pixels: inputs[pixels].flip(0) * 2}
    with torch.no_grad():
        assert not torch.allclose(example.model(**inputs).logits[:, -1], example.model(**other).logits[:, -1])


@pytest.mark.parametrize("family", VIDEOS)
def test_frames_are_pictures_with_grids_or_policies_that_need_one_refuse(family):
    """Families that tell a video's grid: each frame is a span of its own, and pooling gives one token a frame here."""
    example = tiny(family)
    inputs, count = inputs_of(example, family, "single")
    layout = prompt_layout(la.anatomy(example.model), inputs)
    if VIDEOS[family][0] in (frames, shots) or family == "glm4v":  # whose grids stand under the name of its videos
        needs = pytest.raises(SettingsError, match="needs the rows and columns of each picture")
        with torch.no_grad(), la.attach(example.model, la.Downsample(2)), needs:
            example.model(**inputs)
        return
    assert [(span.length, span.grid) for span in layout.spans[0]] == [(count // FRAMES, (2, 2))] * FRAMES
    with torch.no_grad(), la.attach(example.model, la.Downsample(2)) as run:
        example.model(**inputs)
    assert run.trace.visual_tokens[0] == [FRAMES]
