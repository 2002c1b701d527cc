"""Architectures without a function of their own: the common pattern finds them, a dry run proves or refutes it."""

import pytest
import torch
from local_policies import Exit
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

import lookaway as la
from lookaway.anatomy import registry
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import AttachError, UnknownAnatomy, UnsupportedModel
from lookaway.engine import self_check as module
from lookaway.engine.api import attach, reference


@pytest.fixture
def unlisted(monkeypatch):
    """A tiny model of a family that is taken off the list."""

    def make(name, **settings):
        la.anatomy(tiny("llava").model)  # the list is filled
        example = tiny(name, **settings)
        monkeypatch.delitem(registry.FAMILIES, example.family)
        return example

    return make


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "internvl", "smolvlm", "gemma3"])
def test_the_common_pattern_is_found_and_proven(unlisted, name, attention):
    example = unlisted(name, attn_implementation=attention)
    found = la.anatomy(example.model)
    assert found.found_by == "rule"
    assert "common pattern" in str(found)
    inputs = example.inputs("left_padded")
    logits = []
    for how in (attach, reference):
        with torch.no_grad(), how(example.model, Exit([2, None, 1, 3])) as run:
            out = example.model(**inputs).logits
            index, valid = run.kept_columns()
            logits.append(out if how is attach else out.gather(1, index[..., None].expand(-1, -1, out.shape[-1])))
    torch.testing.assert_close(logits[0][valid], logits[1][valid], atol=1e-5, rtol=1e-5)


def test_families_with_a_function_need_no_proof(monkeypatch):
    monkeypatch.setattr(module, "_run", None)
    attach(tiny("llava").model, Exit(1)).detach()


def test_the_proof_is_carried_out_once_and_leaves_nothing(unlisted, monkeypatch):
    model = unlisted("internvl").model.train()
    model.model.vision_tower.eval()
    runs = []
    monkeypatch.setattr(module, "_run", lambda *args, run=module._run: (runs.append(1), run(*args))[1])
    for _ in range(2):
        attach(model, Exit(1)).detach()
    assert len(runs) == 4
    assert model.training
    assert not model.model.vision_tower.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with attach(model, Exit(1)), pytest.raises(AttachError, match="attached to this model already"):
        attach(model, Exit(2))
    model.set_attn_implementation("eager")  # another implementation needs a proof of its own
    attach(model, Exit(1)).detach()
    assert len(runs) == 8


class Leaky(Qwen2DecoderLayer):
    """Mixes positions beside attention, as a convolution or a running state would."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        out = super().forward(hidden_states, attention_mask, **kwargs)
        return out + 0.1 * out.roll(1, dims=1)


class Shouting(Qwen2DecoderLayer):
    """Changes with every call, whatever is attached."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(hidden_states, attention_mask, **kwargs) * self.calls


@pytest.mark.parametrize(
    ("layer_class", "why"),
    [(Leaky, "removal differs from masking"), (Shouting, "a policy that keeps everything changes the answer")],
)
def test_a_decoder_that_only_looks_usual_is_refused(unlisted, layer_class, why):
    model = unlisted("internvl").model
    model.model.language_model.layers[2].__class__ = layer_class
    for how in (attach, reference):
        with pytest.raises(UnsupportedModel, match=rf"common pattern failed its proof: .*{why}"):
            how(model, Exit(1))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_where_the_inside_is_refuted_the_place_in_front_of_the_decoder_remains(unlisted, monkeypatch):
    example = unlisted("internvl")

    def refute(model, anatomy):
        raise module._Refuted("removal differs from masking by 1 where 0 would be rounding")

    monkeypatch.setattr(module, "_check_inside", refute)
    with pytest.raises(UnsupportedModel, match=r"not of the common pattern \(removal differs from masking by 1"):
        attach(example.model, Exit(1))
    with torch.no_grad(), attach(example.model, la.UniformKeep(0.5, layer=0)) as run:
        example.model(**example.inputs("left_padded"))
    assert run.trace.visual_tokens[0] == run.trace.visual_tokens[-1] < run.trace.initial_visual_tokens
    assert "differs from masking" in la.anatomy(example.model).only_before


def test_what_the_pattern_does_not_cover_is_named(unlisted):
    model = unlisted("qwen3_vl").model
    found = la.anatomy(model)
    assert "takes deepstack_visual_embeds, visual_pos_masks, which lookaway does not" in found.only_before
    vars(model.config)["image_token_id"] = None
    with pytest.raises(UnknownAnatomy, match="its config names no image_token_id; and its config names no token that"):
        la.anatomy(model)
