"""Probes see what eager attention maps show, change nothing, and go."""

import copy

import pytest
import torch
from local_policies import Exit
from shared_tiny import RECIPES, THOROUGH, tiny
from transformers import AttentionInterface

from lookaway.anatomy.tiny import BATCH_KINDS
from lookaway.core.errors import AttachError
from lookaway.engine.api import attach
from lookaway.engine.observe.probing import observe


@pytest.mark.parametrize(
    ("family", "batch"),
    [(family, kind) for family in RECIPES for kind in (BATCH_KINDS if family in THOROUGH else ["left_padded"])],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_probes_equal_the_rows_of_the_full_maps(family, attention, batch):
    model, eager = tiny(family, attn_implementation=attention), tiny(family, attn_implementation="eager")
    inputs = model.inputs(batch)
    with torch.no_grad():
        plain = model.model(**inputs).logits
        maps = eager.model(**inputs, output_attentions=True).attentions
        with observe(model.model, [0, 3]) as seen:
            assert torch.equal(model.model(**inputs).logits, plain)
    assert sorted(seen.looks) == [0, 3]
    question = seen.layout.question_mask()
    for layer, looks in seen.looks.items():
        for row in range(len(plain)):
            expected = maps[layer][row][:, question[row]] * seen.layout.visual[row]  # [heads, T, S]
            torch.testing.assert_close(looks.last[row], expected[:, -1], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(looks.text_mean[row], expected.mean(1), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(looks.text_max[row], expected.amax(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_everything_is_put_back(attention):
    model = tiny("llava", attn_implementation=attention)
    before = copy.deepcopy(model.model.config.to_dict())
    usual = dict(AttentionInterface._global_mapping)
    seen = observe(model.model)
    model.model.generate(**model.inputs(), max_new_tokens=3, do_sample=False)
    with pytest.raises(KeyError), seen:
        raise KeyError
    seen.stop()
    assert len(seen.looks) == 4
    assert model.model.config.to_dict() == before
    assert model.model.model.language_model.config._attn_implementation == attention
    assert not any(module._forward_pre_hooks for module in model.model.modules())
    assert all(AttentionInterface._global_mapping[name] is function for name, function in usual.items())


def test_what_is_refused():
    model = tiny("llava").model
    with observe(model), pytest.raises(AttachError, match="observed already"):
        observe(model)
    with attach(model, Exit(1)), pytest.raises(AttachError, match="attached to this model already"):
        observe(model)
