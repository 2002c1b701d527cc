"""Every published layout in the doctor's words, and neighbours of theirs that are refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
from golden_cases import GOLDEN, change, checkpoint

from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.models.layouts.detection import plan_for, recognise
from lookaway.models.layouts.doctor import diagnose
from lookaway.models.layouts.reader import Shards
from lookaway.models.layouts.request import rope


@pytest.mark.parametrize("name", sorted(file.parent.parent.name for file in GOLDEN.glob("*/checkpoint/config.json")))
def test_the_doctor_knows_every_layout_in_ten_lines_without_weights(name, monkeypatch):
    monkeypatch.setattr(Shards, "read", None)
    found = diagnose(checkpoint(name))
    assert found.supported, found.why
    assert list(found.facts) == [
        "folder", "says of itself", "weights", "layout", "becomes", "decoder", "vision tower", "tokenizer", "prompt"
    ]  # fmt: skip
    assert found.facts["layout"] == recognise(checkpoint(name)).title
    assert "'<image>'" in found.facts["tokenizer"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"ps_version": "v1"}, r"InternVL-Chat 1.1 and 1.2 \(ps_version v1\).*is not supported"),
        ({"pad2square": True}, "pad2square"),
        ({"use_thumbnail": False}, "use_thumbnail is off"),
        ({"template": "internlm3"}, "'internlm3' is not known. Give one of these as --conversation"),
        ({"llm_config": {"architectures": ["GemmaForCausalLM"]}}, "decoder GemmaForCausalLM is not one"),
        ({"llm_config": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}}, "use_sliding_window"),
    ],
)
def test_other_internvls_are_refused_by_name(copy, keys, reason):
    folder = copy("InternVL2-1B")
    change(folder, **keys)
    with pytest.raises(UnsupportedModel, match=reason):
        plan_for(folder)


@pytest.mark.parametrize("name", ["InternVL2-1B", "Eagle2-1B", "VILA1.5-3b", "Eagle-X5-7B"])
def test_a_folder_without_its_weights_says_so(copy, name):
    folder = copy(name)
    for file in [*folder.rglob("model*.safetensors*")]:
        file.unlink()
    with pytest.raises(PreparationError, match=r"no weights. Download"):
        plan_for(folder)


CLIP = GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336"


def test_a_relative_of_the_named_tower_is_refused(tmp_path):
    """CLIP-L of 224 pixels has the same matrices as that of 336 and would give 256 visual tokens in place of 576."""
    other = shutil.copytree(CLIP, tmp_path / "clip-vit-large-patch14")
    config = json.loads((other / "config.json").read_text())
    config["vision_config"]["image_size"] = 224
    (other / "config.json").write_text(json.dumps(config))
    for name in ("llava-v1.5-7b", "llava-v1.6-vicuna-7b"):
        with pytest.raises(PreparationError, match=r"pictures of 336 pixels in patches of 14\. The tower in .* of 224"):
            plan_for(checkpoint(name), vision_tower=other)
    intern = shutil.copytree(GOLDEN / "towers" / "OpenGVLab" / "InternViT-6B-224px", tmp_path / "InternViT-6B-448px")
    change(intern, image_size=448)
    with pytest.raises(PreparationError, match="InternViT-6B-224px: pictures of 224 pixels"):
        plan_for(checkpoint("InternVL-Chat-ViT-6B-Vicuna-7B"), vision_tower=intern)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"model_type": "llava_mistral", "sliding_window": 4096}, "LLaVA-1.5 with a Mistral decoder"),
        ({"model_type": "geochat"}, "another descendant of LLaVA"),
        ({"model_type": "llava_phi"}, "another descendant of LLaVA"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantised checkpoint"),
    ],
)
def test_descendants_of_llava_are_refused_by_name(copy, keys, reason):
    folder = copy("llava-v1.5-7b")
    change(folder, **keys)
    with pytest.raises(UnsupportedModel, match=reason):
        recognise(folder)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"mm_vision_select_feature": "patch"}, "mm_vision_select_feature is 'patch'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    ],
)
def test_other_vilas_are_refused_by_name(copy, keys, reason):
    folder = copy("VILA1.5-3b")
    change(folder, **keys)
    with pytest.raises(UnsupportedModel, match=reason):
        plan_for(folder)


def test_a_second_turn_of_vila_is_never_legacy(copy):
    """The public loader says legacy=False whatever the folder does; the text behind </s> has no mark then."""
    folder = copy("VILA1.5-3b")
    text = "USER: a ASSISTANT: b</s>USER: c"
    wanted = plan_for(folder).processor.tokenizer(text)["input_ids"]
    settings = json.loads((folder / "llm" / "tokenizer_config.json").read_text())
    (folder / "llm" / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": True}))
    assert plan_for(folder).processor.tokenizer(text)["input_ids"] == wanted


def test_a_prompt_form_whose_end_the_tokenizer_lacks_is_refused(copy):
    """<|im_end|> would become an id behind the vocabulary, and no answer would end."""
    with pytest.raises(UnsupportedModel, match=r"tokenizer has no <\|im_end\|>"):
        plan_for(checkpoint("InternVL2-4B"), conversation="internvl2_5")


def test_llama_3s_tokenizer_is_not_read_as_llama_2s(copy):
    """InternVL2-Llama3-76B: transformers' Llama tokenizer would give other ids without saying so."""
    folder = copy("InternVL2-4B")
    (folder / "tokenizer.model").unlink()
    shutil.copy(checkpoint("Llama-3-VILA1.5-8b") / "llm" / "tokenizer.json", folder)
    with pytest.raises(UnsupportedModel, match="not sentencepiece's kind"):
        plan_for(folder)


def test_rope_is_read_from_configs_of_every_age():
    assert rope({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}) == {
        "rope_type": "linear", "rope_theta": 5e5, "factor": 2.0
    }  # fmt: skip
    assert rope({"rope_theta": 3.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}) == {
        "rope_type": "dynamic", "rope_theta": 3.0, "factor": 2.0
    }  # fmt: skip
    both = {"type": "su", "rope_type": "longrope", "short_factor": [1.0]}
    assert rope({"rope_scaling": both})["rope_type"] == "longrope"
    assert rope({}) == {"rope_type": "default", "rope_theta": 10000.0}
