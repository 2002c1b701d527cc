"""Damaged and hostile folders in published layouts: each is explained, and none is read by halves."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_cases import GOLDEN, change, checkpoint
from safetensors.torch import load_file, save_file

from lookaway.core.errors import PreparationError
from lookaway.models.layouts.detection import plan_for
from lookaway.models.layouts.doctor import diagnose
from lookaway.models.layouts.plan import build
from lookaway.models.layouts.reader import Shards

CLIP = GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336"
DAMAGES = {
    "InternVL2-1B": ("llm_config", "vision_config", "downsample_ratio"),
    "Eagle2-1B": ("vision_config", "downsample_ratio"),
    "VILA1.5-3b": ("mm_vision_select_layer",),
    "VILA1.5-3b-s2": ("s2_scales",),
    "Eagle-X5-7B": ("mm_hidden_size",),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in DAMAGES.items() for key in keys])
def test_a_config_without_one_of_its_keys_is_explained(copy, name, key):
    """By the doctor too, which must not end in a traceback."""
    folder = copy(name)
    for value in ("gone", None, [], 99):
        config = json.loads((checkpoint(name) / "config.json").read_text())
        config.pop(key) if value == "gone" else config.update({key: value})
        (folder / "config.json").write_text(json.dumps(config))
        found = diagnose(folder)
        assert not found.supported, (key, value)
        assert len(found.why) > 40


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "vocab.json"])
@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "\x00"], ids=["empty", "open", "deep", "null", "nul"])
def test_damaged_json_is_explained(copy, file, text):
    folder = copy("InternVL2-1B")
    (folder / file).write_text(text)
    found = diagnose(folder)
    assert not found.supported
    assert "Traceback" not in found.why


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ('{"weight_map": {"a": "../outside.safetensors"}}', "'../outside.safetensors', which is no file of its own"),
        ('{"weight_map": {"a": "/outside.safetensors"}}', "'/outside.safetensors', which is no file of its own"),
        ('{"weight_map": {"a": ".."}}', r"'\.\.', which is no file of its own"),
        ('{"weight_map": {"a": 3}}', "3, which is no file of its own"),
        ('{"weight_map": {"a": 3, "b": "model.safetensors"}}', "cannot be read"),
        ('{"weight_map": {}}', "names no weight file"),
        ('{"weight_map": []}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_an_index_leads_to_no_file_outside_its_folder(copy, index, reason):
    folder = copy("InternVL2-1B")
    weights = (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(index.replace('"/outside', f'"{weights.parent}/outside'))
    with pytest.raises(PreparationError, match=reason.replace("'/outside", f"'{weights.parent}/outside")):
        plan_for(folder)


def test_links_to_weight_files_are_followed(copy):
    """A hub cache is made of them."""
    folder = copy("InternVL2-1B")
    weights = (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to(weights)
    assert diagnose(folder).supported


def test_weights_are_taken_in_the_order_of_transformers(copy):
    """An index that an older save left beside a whole file is not read, nor a tensor that two files hold."""
    folder = copy("InternVL2-1B")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    assert [file.name for file in Shards(folder).files] == ["model.safetensors"]
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(PreparationError, match=r"in two weight files.*which one holds"):
        plan_for(folder)


def test_end_tokens_are_ids_of_the_tokenizer(copy):
    folder = copy("llava-v1.5-7b")
    for value in ("</s>", [2, 10**9], -1):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        with pytest.raises(PreparationError, match="not all ids of its tokenizer"):
            plan_for(folder, vision_tower=CLIP)


def test_numbers_that_float16_cannot_hold_are_not_made_infinite(copy):
    folder = copy("InternVL2-1B")
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.norm.weight"
    tensors[name] = torch.full_like(tensors[name], 1e6, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    change(folder, torch_dtype="float16")
    with pytest.raises(PreparationError, match=r"norm.weight holds numbers that float16.*torch_dtype"):
        build(plan_for(folder))


def test_sizes_that_make_no_model_are_explained(copy):
    folder = copy("InternVL2-1B")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("num_attention_heads", 0), ("hidden_size", -1), ("num_hidden_layers", "two")):
        llm = {**config["llm_config"], key: value}
        (folder / "config.json").write_text(json.dumps({**config, "llm_config": llm}))
        found = diagnose(folder)
        assert not found.supported, key
