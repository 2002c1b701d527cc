"""Eagle2: its tiles against exact arithmetic, its prompts of several pictures and turns, and what is refused."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from fractions import Fraction
from functools import partial

import pytest
import torch
from golden_cases import GOLDEN, Case, cases, change, checkpoint, judge
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

import lookaway as la
from lookaway.core.errors import DataError, UnsupportedModel
from lookaway.models.eagle2.tiling import Eagle2ImageProcessorPil, best_grid
from lookaway.models.layouts.convert import convert
from lookaway.models.layouts.detection import plan_for, recognise
from lookaway.models.layouts.plan import build

FIRST, LATER = "Eagle2-1B", "Eagle2-1B-eagle_2_5_vl"
EDITIONS = (FIRST, LATER)


def score(grid, width, height):
    columns, rows = grid
    aspect = Fraction(columns * height, rows * width)
    return min(Fraction(columns * rows * 448 * 448, width * height), Fraction(6, 10)) * min(aspect, 1 / aspect)


def test_no_other_grid_fits_better_and_none_with_fewer_tiles_as_well():
    draw = random.Random(0)
    sizes = [(draw.randint(1, 3000), draw.randint(1, 3000)) for _ in range(300)]
    sizes += [(448 * i, 448 * j) for i in range(1, 6) for j in range(1, 6)] + [(1, 3000), (3000, 1), (1, 1)]
    several = 0
    for width, height in sizes:
        found = best_grid(width, height, 448, 1, 12)
        scores = {(i, j): score((i, j), width, height) for i in range(1, 13) for j in range(1, 13) if i * j <= 12}
        best = max(scores.values())
        equal = [grid for grid, value in scores.items() if best - value < 1e-12]
        assert found in equal
        assert found[0] * found[1] == min(i * j for i, j in equal)
        several += found[0] * found[1] > 1
    assert several > 100


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [((300, 200), 12, (3, 2)), ((4480, 4480), 12, (3, 3)), ((2688, 2688), 24, (5, 4)), ((100, 100), 12, (1, 1))],
)
def test_grids_that_the_public_code_chose(size, most, grid):
    """That of 2688 x 2688 by the order of its set of tuples alone (NVlabs/Eagle 4790a89, CPython 3.11)."""
    assert best_grid(*size, 448, 1, most) == grid


@pytest.mark.parametrize("resizer", ["pil", "torch"])
def test_the_number_of_tiles_is_told_without_the_picture(resizer):
    pictures = Eagle2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=6, resizer=resizer
    )
    for width, height in ((20, 20), (90, 40), (30, 170)):
        found = pictures(Image.new("RGB", (width, height), "red"), return_tensors="pt")
        tiles = pictures.get_number_of_image_patches(height, width)
        assert found["pixel_values"].shape == (tiles, 3, 28, 28)
        assert found["num_patches"].tolist() == [tiles]


@pytest.mark.parametrize("name", EDITIONS)
def test_several_pictures_and_turns_have_the_public_ids(name):
    processor = plan_for(checkpoint(name)).processor
    image = processor.image_token_id
    several = json.loads((GOLDEN / name / "cases.json").read_text())["several"]
    for facts in several.values():
        pictures = [Image.open(GOLDEN / "images" / file).convert("RGB") for file in facts["images"]]
        ours = processor.apply_chat_template(facts["messages"], add_generation_prompt=True)
        for text in (facts["prompt"], ours):
            ids = processor(text=text, images=pictures, return_tensors="pt")["input_ids"][0].tolist()
            assert len(ids) == facts["length"]
            squeezed = [token for i, token in enumerate(ids) if token != image or i == 0 or ids[i - 1] != image]
            assert squeezed == facts["squeezed_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITIONS)
@torch.no_grad()
def test_the_public_logits_and_ours_are_near_those_of_float64(name):
    """Why they are allowed 5e-5 between them: each is within 2.5e-5 of the same model in float64, in every case."""
    model, processor = la.load_model(checkpoint(name), device="cpu")
    exact = deepcopy(model).double()
    for module in exact.modules():
        if type(module).__name__ == "Qwen2RMSNorm":  # goes to float32 by itself
            module.forward = partial(root_mean_square_norm, module)
    for case in cases(name):
        inputs = processor(text=case.facts["prompt"], images=case.image, return_tensors="pt")
        doubled = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
        wanted = exact(**doubled).logits[0, -1]
        assert wanted.dtype == torch.float64
        for found in (model(**inputs).logits[0, -1], case.tensor("logits")):
            torch.testing.assert_close(found.double(), wanted, atol=2.5e-5, rtol=0)


def root_mean_square_norm(module, states):
    return module.weight * states / (states.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()


def test_pictures_numbered_out_of_order_are_refused():
    processor = plan_for(checkpoint(LATER)).processor
    with pytest.raises(DataError, match=r"numbered \[2, 1\]. Number them from 1 on"):
        processor(text="<image-2> <image-1>")


def test_a_head_is_tied_as_the_public_loader_ties_it(copy):
    """A stored head is not read where the config ties it, and is where it does not."""
    folder = copy(FIRST)
    tensors = load_file(folder / "model.safetensors")
    head = torch.randn_like(tensors["language_model.model.embed_tokens.weight"])
    save_file({**tensors, "language_model.lm_head.weight": head}, folder / "model.safetensors")
    tied = build(plan_for(folder), torch.bfloat16)
    assert torch.equal(tied.lm_head.weight, tensors["language_model.model.embed_tokens.weight"])
    change(folder, tie_word_embeddings=False, llm_config__tie_word_embeddings=False)
    assert torch.equal(build(plan_for(folder), torch.bfloat16).lm_head.weight, head)


@pytest.mark.parametrize("name", EDITIONS)
def test_the_auto_classes_read_a_converted_folder(name, tmp_path):
    folder = convert(plan_for(checkpoint(name)), tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert type(AutoImageProcessor.from_pretrained(folder)) is Eagle2ImageProcessorPil
    facts = json.loads((GOLDEN / name / "cases.json").read_text())["cases"]["a-300x200.turn1"]
    judge(model, processor, Case(name, "a-300x200.turn1", facts), 5e-5)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"vision_config": {"model_type": "MOB:siglip;convnext"}}, "tower 'MOB:siglip;convnext'.*ConvNeXt"),
        ({"llm_config__architectures": ["LlamaForCausalLM"]}, r"decoder \['LlamaForCausalLM'\]"),
        ({"llm_config__use_sliding_window": True}, "use_sliding_window"),
        ({"tie_word_embeddings": False}, "which one holds"),
        ({"select_layer": -2}, "select_layer = -2 is not read"),
        ({"force_image_size": 224}, "force_image_size = 224"),
        ({"use_thumbnail": False}, "use_thumbnail = False"),
        ({"keep_aspect_ratio": True}, "keep_aspect_ratio = True"),
        ({"use_llm_lora": 16}, "use_llm_lora = True"),
    ],
)
def test_other_variants_are_refused_by_name(copy, keys, reason):
    folder = copy(FIRST)
    change(folder, **keys)
    assert recognise(folder).name == "eagle2"
    with pytest.raises(UnsupportedModel, match=reason):
        plan_for(folder)
