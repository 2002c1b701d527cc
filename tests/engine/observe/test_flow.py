"""Reduced attention against the full eager maps, loop by loop; with and without an exit; and what is refused."""

import copy
import gc
import math

import pytest
import torch
from shared_tiny import RECIPES, tiny
from torch import nn

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import BATCH_KINDS
from lookaway.core.attention_inputs import attention_rows
from lookaway.core.errors import AttachError, UnsupportedModel
from lookaway.engine.observe.flow import watch_flow


def dense(weights, layout, row):
    """What `Flow` should hold for one row, from its map [H, S, S], by plain loops."""
    visual = layout.visual[row].nonzero().flatten().tolist()
    text = layout.question_mask()[row].nonzero().flatten().tolist()
    system = [i for i in layout.text[row].nonzero().flatten().tolist() if i not in text]
    first = (~layout.padding[row]).nonzero().flatten().tolist()[:1]

    def total(merged, rows, columns):
        return sum(float(merged[i, j]) for i in rows for j in columns) / len(rows) if rows else math.nan

    found = {}
    for name, merged in (("max", weights.amax(0)), ("mean", weights.mean(0))):
        found[name] = {
            "visual_self": total(merged, visual, visual), "cross": total(merged, text, visual),
            "text_self": total(merged, text, text), "text_to_system": total(merged, text, system),
            "text_to_first": total(merged, text, first), "visual_to_system": total(merged, visual, system),
        }  # fmt: skip

    def entropy(rows, columns):
        values = []
        for head in weights:
            for i in rows:
                part = head[i, columns].double()
                part = part / part.sum()
                values.append(-sum(p * math.log(p) for p in part.tolist() if p > 0))
        return sum(values) / len(values)

    most = weights.amax(0)
    found["entropy"] = {
        "cross": entropy(text, visual) if visual else math.nan, "text_self": entropy(text, text),
        "cross_merged": -sum(float(most[i, j] * most[i, j].log()) for i in text for j in visual if most[i, j] > 0)
        / len(text) if visual else math.nan,
        "text_self_merged": -sum(float(most[i, j] * most[i, j].log()) for i in text for j in text if most[i, j] > 0)
        / len(text),
    }  # fmt: skip
    zero = torch.zeros(weights.shape[2])
    on = zero.clone()
    on[visual] = 1
    found["last"], found["text"] = weights.mean(0)[text[-1]] * on, weights.mean(0)[text].mean(0) * on
    return found


def same(found, wanted):
    assert found == pytest.approx(wanted, abs=1e-5, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("batch", BATCH_KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", RECIPES)
def test_reduced_attention_equals_the_full_maps(family, attention, batch):
    model, eager = tiny(family, attn_implementation=attention), tiny(family, attn_implementation="eager")
    inputs = model.inputs(batch)
    with torch.no_grad():
        plain = model.model(**inputs).logits
        maps = eager.model(**inputs, output_attentions=True).attentions
        with watch_flow(model.model, [1, 3], block=5) as seen:
            assert torch.equal(model.model(**inputs).logits, plain)
    assert sorted(seen.flows) == [1, 3]
    for layer, flow in seen.flows.items():
        for row in range(len(plain)):
            wanted = dense(maps[layer][row], seen.layout, row)
            same({name: float(value[row]) for name, value in flow.by_max.items()}, wanted["max"])
            same({name: float(value[row]) for name, value in flow.by_mean.items()}, wanted["mean"])
            same({name: float(value[row]) for name, value in flow.entropy.items()}, wanted["entropy"])
            torch.testing.assert_close(flow.last[row], wanted["last"], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(flow.text[row], wanted["text"], atol=1e-5, rtol=1e-4)


def test_no_map_is_ever_whole_and_none_is_kept(monkeypatch):
    """The largest piece is `block` rows of one layer; what stays of a layer is a few numbers and two rows."""
    made = []

    def counted(query, keys, rows, allowed, scaling):
        made.append((rows.shape[1], gc_maps()))
        return attention_rows(query, keys, rows, allowed, scaling)

    def gc_maps():
        return sum(isinstance(one, torch.Tensor) and one.dim() == 4 and one.shape[2:] == (5, length)
                   for one in gc.get_objects())  # fmt: skip

    monkeypatch.setattr("lookaway.engine.observe.flow.attention_rows", counted)
    model = tiny("llava", 8)
    inputs = model.inputs()
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), watch_flow(model.model, block=5) as seen:
        model.model(**inputs)
    assert max(rows for rows, _ in made) == 5
    alive = [maps for _, maps in made]
    assert max(alive[-6:]) <= max(alive[:6])  # the last layer finds no more of them than the first
    for flow in seen.flows.values():
        parts = [*flow.by_max.values(), *flow.by_mean.values(), *flow.entropy.values(), flow.last, flow.text]
        assert max(part.numel() for part in parts) == length


def test_shares_by_mean_add_up_to_one():
    model = tiny("llava")
    with torch.no_grad(), watch_flow(model.model) as seen:
        model.model(**model.inputs())
    for flow in seen.flows.values():
        whole = flow.by_mean["cross"] + flow.by_mean["text_self"] + flow.by_mean["text_to_system"]
        torch.testing.assert_close(whole, torch.ones(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_after_an_exit_the_text_left_is_what_the_masked_run_shows(attention):
    model = tiny("llava", attn_implementation=attention)
    inputs = model.inputs()
    flows = []
    with torch.no_grad():
        for attach in (la.attach, la.reference):
            with attach(model.model, la.ExitAt(2)), watch_flow(model.model) as seen:
                model.model(**inputs)
            flows.append(dict(seen.flows))
    for layer, (removed, masked) in enumerate(zip(flows[0].values(), flows[1].values(), strict=True)):
        for name in ("text_self", "text_to_system", "text_to_first"):
            torch.testing.assert_close(removed.by_max[name], masked.by_max[name])
        for name in ("text_self", "text_self_merged"):
            torch.testing.assert_close(removed.entropy[name], masked.entropy[name])
        assert bool(removed.entropy["cross"].isnan()) == (layer >= 2)
        assert bool(removed.by_mean["cross"] > 0) == (layer < 2)


def test_generation_is_watched_in_prefill_only_and_everything_is_put_back():
    model = tiny("llava")
    before = copy.deepcopy(model.model.config.to_dict())
    seen = watch_flow(model.model)
    model.model.generate(**model.inputs(), max_new_tokens=3, do_sample=False)
    with pytest.raises(KeyError), seen:
        raise KeyError
    seen.stop()
    assert len(seen.flows) == 4
    assert model.model.config.to_dict() == before
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_what_is_refused():
    model = tiny("llava")
    with la.attach(model.model, la.ExitAt(1)), watch_flow(model.model), pytest.raises(AttachError, match="one at a ti"):
        model.model(**model.inputs("left_padded"))
    attention = anatomy_of(model.model).layers[2].self_attn
    attention.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(UnsupportedModel, match="extra sinks"):
        watch_flow(model.model)
    del attention.sinks
    attention.config = None
    with pytest.raises(UnsupportedModel, match="Decoder layer 2"):
        watch_flow(model.model)
    flash = tiny("llava").model
    flash.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="attn_implementation='sdpa'"):
        watch_flow(flash)
