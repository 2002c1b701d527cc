"""Which model a checkpoint holds, told from its files as from the loaded model. Needs no vLLM."""

from types import SimpleNamespace

import pytest

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.serving.vllm.checkpoints import copy_for_vllm
from lookaway.serving.vllm.identity import model_at


def config(model, folder):
    text = model.config.get_text_config()
    return SimpleNamespace(model=str(folder), architectures=[type(model).__name__], hf_text_config=text, revision=None)


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("tied", [False, True])
def test_of_the_files_as_of_the_model(family, tied, tmp_path):
    model = tiny(family).model
    if tied:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
        model.lm_head.weight = model.get_input_embeddings().weight
    identity = la.anatomy(model).identity
    model.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "saved", copy_for_vllm(tmp_path / "saved", tmp_path / "copy")):
        found = model_at(config(model, folder))
        assert found.weights == identity.weights
        assert found.differences(identity) == []


def test_other_weights_are_another_model(tmp_path):
    for seed in (0, 1):
        tiny("llava", seed=seed).model.save_pretrained(tmp_path / str(seed))
    model = tiny("llava").model
    first, second = (model_at(config(model, tmp_path / str(seed))) for seed in (0, 1))
    assert [line.split()[0] for line in first.differences(second)] == ["weights"]


def test_a_hub_id_tells_nothing_of_the_weights():
    assert model_at(config(tiny("llava").model, "llava-hf/llava-1.5-7b-hf")).weights == ""
