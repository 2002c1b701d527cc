"""Drafting on models as people hold them: wrapped, in several threads, on two devices, in bfloat16, flash masks."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from drafted_by_hand import GREEDY
from fake_devices import FIRST, two_devices
from test_attach import _flash_stand_in
from test_devices import spread
from test_drafting import REMOVES, answers, drafts, same
from test_threads import requests
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import lookaway as la
from lookaway.anatomy.tiny import tiny

OPTIONS = {**GREEDY, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.mark.parametrize("by", ["early exit", "twig"])
def test_several_threads_draft_on_one_model(by):
    """Prompts of several lengths about a picture; each thread gets its own answer and its own counts."""
    example = tiny("llava")
    prompts = list(requests(example, 12))
    policy = REMOVES["around K"]()

    def answer(inputs):
        ids = example.model.generate(**inputs, **OPTIONS)
        return ids, run.trace

    with la.attach(example.model, policy, draft=drafts(example.model)[by]) as run:
        alone = [answer(inputs) for inputs in prompts]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(answer, prompts))
    for (ids, trace), (other, beside) in zip(alone, found, strict=True):
        assert torch.equal(ids, other)
        assert trace == beside
        assert trace.checks > 0


def test_a_peft_model():
    peft = pytest.importorskip("peft")
    inputs = tiny("llava").inputs()
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(tiny("llava").model, config).eval()
    plain = answers(wrapped, inputs, la.ExitAt(2))
    for draft in (la.Draft(2, 3, 0.0), la.Draft(la.Twig(start=2, depth=1), 3, 0.0)):
        found = answers(wrapped, inputs, la.ExitAt(2), draft)
        same(found, plain)
        assert found[2].trace.checks > 0
    assert "generate" not in vars(wrapped.get_base_model())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bfloat16(attention):
    """Scores as near as the type allows, up to the first place where two tokens are closer than that."""
    made = tiny("llava", attn_implementation=attention)
    inputs = {n: v.bfloat16() if v.is_floating_point() else v for n, v in made.inputs().items()}
    model = made.model.bfloat16()
    plain = answers(model, inputs, la.ExitAt(2))
    for draft in drafts(model).values():
        found = answers(model, inputs, la.ExitAt(2), draft)
        width = inputs["input_ids"].shape[1]
        alike = (found[0][0, width:] == plain[0][0, width:]).cumprod(0).sum()
        count = min(int(alike) + 1, len(plain[1]))
        torch.testing.assert_close(found[1][:count], plain[1][:count], atol=0.1, rtol=0.05)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_masks_of_two_dimensions(family, padding):
    """As flash attention gets them; SDPA judges."""
    AttentionInterface.register("flash_stand_in", _flash_stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    plain, flash = tiny(family), tiny(family).model
    flash.model.language_model.config._attn_implementation = "flash_stand_in"
    wide = ("input_ids", "attention_mask", "mm_token_type_ids")
    inputs = {
        name: torch.nn.functional.pad(value, (padding, 0)) if name in wide else value
        for name, value in plain.inputs().items()
    }
    policy = REMOVES["around K"]()
    for draft in drafts(plain.model).values():
        same(answers(flash, inputs, policy, draft), answers(plain.model, inputs, policy))


@pytest.mark.parametrize("by", ["early exit", "twig"])
def test_a_decoder_on_two_devices(by):
    """The head's scores are not where the tokens are."""
    made, policy = tiny("llava"), REMOVES["around K"]()
    inputs = made.inputs()
    with la.attach(made.model, policy):
        plain = made.model.generate(**inputs, **OPTIONS)
    with two_devices(), torch.no_grad():
        spread(made.model)
        given = {name: value.to(FIRST) for name, value in inputs.items()}
        draft = la.Draft(2 if by == "early exit" else la.Twig(start=2, depth=1), 3, 0.0)
        with la.attach(made.model, policy, draft=draft) as run:
            found = made.model.generate(**given, **OPTIONS)
    assert torch.equal(found.inner, plain)
    assert run.trace.checks > 0


def test_a_second_look_and_gates():
    """Rows that look again do so in the prefill; what guesses behind them is what they ended with."""
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    for unsure in (0.0, 1.0):
        policy = la.SecondLook(la.ExitAt(1), la.KeepSchedule([1.0, 1.0, 0.5, 0.5]), threshold=unsure)
        plain = answers(model, inputs, policy)
        for draft in drafts(model).values():
            found = answers(model, inputs, policy, draft)
            same(found, plain)
            assert found[2].trace.looked_again == plain[2].trace.looked_again == [unsure > 0]
