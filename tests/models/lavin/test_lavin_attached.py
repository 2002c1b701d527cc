"""Policies on LaVIN, whose layers take one more argument a row (`routing`) and whose model reads its own layers."""

import pytest
import torch
from shared_lavin import inputs

import lookaway as la
from lookaway.core.errors import UnsupportedModel
from lookaway.engine.prefill import row_groups
from lookaway.engine.replay.resume import pause
from lookaway.engine.replay.tape import record_tape
from lookaway.models.tiny_models import tiny_lavin


@pytest.fixture(scope="module")
def model():
    return tiny_lavin()


@torch.no_grad()
def logits(model, policy, how=la.attach, **given):
    """Logits [B, vocabulary] of the last column."""
    with how(model, policy):
        return model(**(given or inputs())).logits[:, -1]


def close(*pair):
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("exits", [[1, None, 3], [2, None, 1], [None, None, 2]])
def test_rows_that_run_apart_take_their_own_routing(model, monkeypatch, exits):
    monkeypatch.setitem(row_groups.CALL, "cpu", 0)  # as many groups as there are lengths
    policy = la.ExitAt(exits)
    with torch.no_grad(), la.attach(model, policy) as run:
        found = model(**inputs()).logits[:, -1]
        assert len(run._here.latest.groups) > 1
    close(found, logits(model, policy, la.reference))


@torch.no_grad()
def test_a_tape_of_a_whole_batch_replays_every_exit(model):
    given = inputs()
    last = torch.full((len(given["input_ids"]), 1), given["input_ids"].shape[1] - 1)
    replayed = record_tape(model, given).exit_logits([1, 2, 3], last)
    for place, layer in enumerate((1, 2, 3)):
        close(replayed[place, :, 0], logits(model, la.ExitAt(layer)))


@torch.no_grad()
def test_a_run_that_goes_on_from_a_layer_takes_the_routing_along(model):
    given = inputs()
    last = torch.full((len(given["input_ids"]), 1), given["input_ids"].shape[1] - 1)
    start, _ = pause(model, given)
    close(start.run(la.ExitAt(2)).logits(last)[:, 0], logits(model, la.ExitAt(2)))


def test_rows_that_look_again_take_their_own_routing(model):
    first, then = la.ExitAt(1), la.ExitAt(3)
    single = {policy: logits(model, policy) for policy in (first, then)}
    sure = single[first].softmax(-1).amax(-1)
    threshold = float(sure[[0, 2]].mean())  # of the two rows with a picture one looks again
    with torch.no_grad(), la.attach(model, la.SecondLook(first, then, threshold)) as run:
        found = model(**inputs()).logits[:, -1]
    again = run.trace.looked_again
    assert sorted(again) == [False, False, True]
    for row, looked in enumerate(again):
        close(found[row], single[then if looked else first][row])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_skipped_attention_does_not_change_the_routing(attention):
    """Held to the model whose attention answers zeros by a hook, so that norms and FFNs are its own."""
    model, given = tiny_lavin(attn_implementation=attention), inputs()
    routing = model(**given).routing
    layer = model.model.language_model.layers[1]
    hook = layer.self_attn.register_forward_hook(lambda module, args, out: (torch.zeros_like(out[0]), *out[1:]))
    expected = model(**given).logits[:, -1]
    hook.remove()
    adapters = la.SkipAdapters(32, (1,)).eval()
    for policy in (la.AttentionSkip((1,)), la.AttentionSkip((1,), adapters)):
        with la.attach(model, policy):
            out = model(**given)
        assert torch.equal(out.routing, routing)
        close(out.logits[:, -1], expected)


def test_merging_adapters_is_refused(model):
    policy = la.AttentionSkip((1,), la.SkipAdapters(32, (1,)).eval())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UnsupportedModel, match=r"computes its routing from its decoder layers.*unmerged"):
        la.merge(model, policy)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
