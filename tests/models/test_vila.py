"""VILA's image side against slow restatements, the later layout of VILA 1.0, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_cases import GOLDEN, PUBLIC_PLACEHOLDER, as_public_ids, cases, change, checkpoint, judge
from PIL import Image
from safetensors.torch import save_file

from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.core.record import Sample
from lookaway.models.encoding import encode
from lookaway.models.layouts.detection import plan_for, recognise
from lookaway.models.layouts.plan import build
from lookaway.models.layouts.reader import Shards
from lookaway.models.vila.config import VilaVisionConfig
from lookaway.models.vila.vision import VilaVisionModel, merge_places

VILA, LLAMA_3 = "VILA1.5-3b", "Llama-3-VILA1.5-8b"


def test_merging_goes_column_by_column_and_pads_with_zeros():
    features = torch.arange(2 * 3 * 5 * 5).float().reshape(2, 3, 5, 5) + 1
    merged = merge_places(features)
    assert merged.shape == (2, 9, 12)
    place = lambda b, row, column: (  # noqa: E731
        features[b, :, row, column].tolist() if row < 5 and column < 5 else [0.0] * 3
    )
    for token in range(9):
        column, row = divmod(token, 3)
        corners = [(2 * row + i, 2 * column + j) for i in (0, 1) for j in (0, 1)]
        expected = [value for corner in corners for value in place(1, *corner)]
        assert merged[1, token].tolist() == expected


@torch.no_grad()
def test_scales_equal_piece_by_piece():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    torch.manual_seed(0)
    model = VilaVisionModel(VilaVisionConfig(tower, scales=[28, 56], split_size=28, hidden_size=64, image_size=56))
    pixels = torch.randn(2, 3, 56, 56)
    small = torch.nn.functional.interpolate(pixels, size=(28, 28), mode="bicubic")
    large = torch.zeros(2, 8, 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            piece = pixels[:, :, 28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
            large[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = seen(model, piece)
    pooled = large.reshape(2, 8, 2, 2, 2, 2).mean((3, 5))
    expected = model.norm(merge_places(torch.cat([seen(model, small), pooled], 1)))
    torch.testing.assert_close(model(pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def seen(model, pixels):
    states = model.tower(pixels, output_hidden_states=True).hidden_states[-2]
    return states.transpose(1, 2).reshape(len(pixels), -1, 2, 2)


def test_a_missing_part_is_named(copy):
    folder = copy(VILA)
    shutil.rmtree(folder / "mm_projector")
    with pytest.raises(PreparationError, match="part mm_projector/ is missing"):
        plan_for(folder)


@pytest.mark.parametrize(
    "keys",
    [
        {"image_aspect_ratio": "dynamic_s2"},
        {"chat_template": "qwen2"},
        {"mm_projector_cfg": {"mm_projector_type": "mlp_downsample_3x3_fix"}},
    ],
)
def test_nvila_is_refused_by_name(copy, keys):
    folder = copy(VILA)
    change(folder, **keys)
    with pytest.raises(UnsupportedModel, match="NVILA"):
        recognise(folder)


def test_other_parts_are_refused_by_name(copy):
    folder = copy(VILA)
    change(folder / "vision_tower", model_type="intern_vit_6b")
    with pytest.raises(UnsupportedModel, match="tower 'intern_vit_6b' and the projector 'mlp_downsample'"):
        plan_for(folder)
    change(folder / "llm", architectures=["MixtralForCausalLM"])
    with pytest.raises(UnsupportedModel, match=r"decoder \['MixtralForCausalLM'\] is not one that is read"):
        plan_for(folder)


def test_llama_3_begins_and_goes_on_as_the_public_code_has_it():
    """Two turns, and the second beginning of the text, through the processor and through the commands' encoding."""
    plan = plan_for(checkpoint(LLAMA_3))
    facts = json.loads((GOLDEN / LLAMA_3 / "cases.json").read_text())["several"]["two turns"]
    assert plan.processor.apply_chat_template(facts["messages"], add_generation_prompt=True) == facts["prompt"]
    picture = GOLDEN / "images" / facts["images"][0]
    sample = Sample(id="0", messages=facts["messages"], images=(str(picture),))
    image = plan.config.image_token_id
    whole = plan.processor(text=facts["prompt"], images=Image.open(picture).convert("RGB"), return_tensors="pt")
    for inputs in (whole, encode(plan.processor, [sample]).inputs):
        ids = inputs["input_ids"][0].tolist()
        assert as_public_ids(ids, image, PUBLIC_PLACEHOLDER) == facts["squeezed_ids"]
        assert ids[:2] == [500, 500]
    assert plan.generation.eos_token_id == [501, 509]  # <|end_of_text|>, <|eot_id|>


def test_a_llama_3_without_reserved_tokens_is_refused(copy):
    folder = copy(LLAMA_3)
    file = folder / "llm" / "tokenizer.json"
    file.write_text(file.read_text().replace("reserved_special_token", "other"))
    with pytest.raises(UnsupportedModel, match="no reserved special token"):
        plan_for(folder)


def test_vila_1_0_saved_in_three_folders_answers_alike(tmp_path):
    """The golden VILA 1.0 checkpoint, laid out as a later version of the public code saves it."""
    source = checkpoint("VILA-7b")
    shards = Shards(source)
    config = json.loads((source / "config.json").read_text())
    clip = GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336"
    llm, tower, projector = (tmp_path / part for part in ("llm", "vision_tower", "mm_projector"))
    for part in (llm, tower, projector):
        part.mkdir()
    tensors = {name: shards.read(name) for name in shards.specs}
    project = {name: tensor for name, tensor in tensors.items() if "mm_projector" in name}
    save_file({name: t for name, t in tensors.items() if name not in project}, llm / "model.safetensors")
    save_file(
        {name.replace("model.mm_projector", "layers"): t for name, t in project.items()},
        projector / "model.safetensors",
    )
    whole = Shards(clip)
    vision = {name: whole.read(name).contiguous() for name in whole.specs if name.startswith("vision_")}
    save_file(vision, tower / "model.safetensors")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, llm)
    shutil.copy(clip / "preprocessor_config.json", tower)
    vision = json.loads((clip / "config.json").read_text())["vision_config"]
    (llm / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    (tower / "config.json").write_text(json.dumps(vision))
    (projector / "config.json").write_text(json.dumps({"mm_projector_type": "mlp2x_gelu"}))
    kept = ("image_aspect_ratio", "mm_vision_select_layer", "mm_vision_select_feature", "model_type")
    (tmp_path / "config.json").write_text(json.dumps({"llm_cfg": {}, **{key: config[key] for key in kept}}))
    plan = plan_for(tmp_path)
    model = build(plan, torch.float32)
    for case in cases("VILA-7b"):
        judge(model, plan.processor, case)
