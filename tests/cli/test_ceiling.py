"""What no method can beat, from a config: by hand, beside real traces, and as a command on several families."""

import json

import pytest
import torch

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import TINY, TINY_BEFORE, tiny
from lookaway.core.errors import SettingsError, UnsupportedModel
from lookaway.evaluation.ceiling import ceilings, shape_of_config


def by_kind(rows):
    return {row.kind: row for row in rows}


@pytest.mark.parametrize("family", [*TINY, *TINY_BEFORE])
def test_the_sizes_are_those_that_the_anatomy_finds_in_the_model(family):
    model = tiny(family).model
    anatomy = anatomy_of(model)
    shape, first = shape_of_config(model.config)
    assert {**vars(shape), "dtype_bytes": 4} == vars(anatomy.shape)
    assert first == anatomy.first_prunable_layer


def test_decoders_that_allow_no_more_show_removal_before_them_alone():
    shape, first = shape_of_config(tiny("qwen3_5").model.config)
    kinds = [row.kind for row in ceilings(shape, 16, 8, first_prunable=first)]
    assert kinds == ["nothing removed", "50% enter the decoder", "25% enter the decoder", "none enters the decoder"]


def test_the_shares_are_those_of_runs_that_do_it():
    example = tiny("llava")
    shape, _ = shape_of_config(example.model.config)
    inputs = example.inputs()
    text = inputs["input_ids"].shape[1] - 16
    found = by_kind(ceilings(shape, 16, text))
    for kind, policy in {
        "all leave before layer 2": la.ExitAt(2),
        "all leave before layer 1, the first that allows it": la.ExitAt(1),
        "50% enter the decoder": la.UniformKeep(0.5, layer=0),
        "visual tokens frozen in all layers": la.ShortV(range(4)),
        "visual tokens frozen in 60 % of the layers": la.ShortV((0, 1)),
        "half of the attentions skipped": la.AttentionSkip((2, 3)),
    }.items():
        with torch.no_grad(), la.attach(example.model, policy) as run:
            example.model(**inputs)
        cost = run.trace.cost()
        assert found[kind].prefill_share == pytest.approx(cost.flops_share)
        assert found[kind].kv_share == pytest.approx(cost.kv_share)
    assert found["nothing removed"].prefill_share == found["nothing removed"].total_share == 1


def test_an_answer_moves_the_whole_towards_what_decoding_costs():
    shape, _ = shape_of_config(tiny("llava").model.config)
    short, long = (by_kind(ceilings(shape, 576, 64, answer))["none enters the decoder"] for answer in (0, 4000))
    assert short.total_share == pytest.approx(short.prefill_share)
    assert long.total_share > short.total_share
    assert long.prefill_share == short.prefill_share


@pytest.mark.parametrize("numbers", [(0, 64, 1), (576, 0, 1), (576, 64, -1)])
def test_numbers_without_sense_are_refused(numbers):
    shape, _ = shape_of_config(tiny("llava").model.config)
    with pytest.raises(SettingsError):
        ceilings(shape, *numbers)


def test_a_config_without_a_decoder_is_refused():
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig()
    del config.__dict__["num_attention_heads"]
    with pytest.raises(UnsupportedModel, match="lookaway bench"):
        shape_of_config(config)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "internvl", "gemma3"])
def test_the_command(family, call, tmp_path):
    tiny(family).model.config.save_pretrained(tmp_path / "model")  # no weights
    status, out, err = call(
        "ceiling", "--model", tmp_path / "model", "--visual", 100, "--text", 20, "--json", tmp_path / "t.json"
    )
    assert status == 0, err
    assert "none enters the decoder" in out
    rows = json.loads((tmp_path / "t.json").read_text())["ceilings"]
    assert rows[0]["prefill_share"] == 1
    assert all(0 < row["prefill_share"] <= 1 for row in rows)


def test_the_prompt_is_the_model_s_own_unless_it_is_given(call, model_folder, tmp_path):
    """Against the layout that an attached run finds in the very same prompt."""
    from PIL import Image

    from lookaway.core.record import Sample
    from lookaway.models.encoding import encode
    from lookaway.models.loading import load_model
    from lookaway.models.picture_tokens import QUESTION, SIZE, prompt_tokens

    model, processor = load_model(model_folder, device="cpu")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    sample = Sample("0", [{"role": "user", "content": content}], (Image.new("RGB", SIZE),))
    inputs = encode(processor, [sample]).inputs
    with torch.no_grad(), la.attach(model, la.KeepAll()) as run:
        model(**inputs)
    found = prompt_tokens(model_folder)
    assert found.visual == run.trace.visual_tokens[0][0]
    assert found.visual + found.text == run.trace.tokens[0][0]
    for given, visual, words in (((), found.visual, "the model's own"), (("--visual", 7), 7, "--visual as given")):
        status, out, err = call("ceiling", "--model", model_folder, *given, "--json", tmp_path / "c.json")
        assert status == 0, err
        numbers = json.loads((tmp_path / "c.json").read_text())
        assert (numbers["visual"], numbers["text"]) == (visual, found.text)
        assert f"A prompt of {visual} visual and {found.text} other tokens" in " ".join(out.split())
        assert words in " ".join(out.split())


def test_a_folder_without_a_processor_is_said_to_be_assumed(call, tmp_path):
    tiny("llava").model.config.save_pretrained(tmp_path / "model")
    status, out, err = call("ceiling", "--model", tmp_path / "model")
    assert status == 0, err
    text = " ".join(out.split())
    assert "A prompt of 576 visual and 64 other tokens (assumed, because the model's own are not known" in text
    assert "Give --visual and --text" in text
