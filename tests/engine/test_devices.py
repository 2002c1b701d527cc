"""A decoder on two devices: all that a policy gets is where its hidden states are, and answers stay the same."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from fake_devices import FIRST, SECOND, Placed, shard, two_devices
from local_policies import Thin

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.decision import Policy
from lookaway.engine.api import attach, reference
from lookaway.engine.replay.resume import pause
from lookaway.modules.adapters import llava_shape

GREEDY = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3, "suppress_tokens": [IMAGE]}


def spread(model):
    """Layers 2 and 3, the norm and the head on the second device."""
    anatomy = anatomy_of(model)
    shard(model, [*anatomy.layers[2:], anatomy.norm, anatomy.head])


def devices_in(value):
    """Devices of all tensors in a view, its layout and its attention inputs."""
    if isinstance(value, torch.Tensor):
        return {value.device}
    if is_dataclass(value):
        return set().union(*(devices_in(getattr(value, one.name)) for one in fields(value)), set())
    if isinstance(value, tuple | list):
        return set().union(*map(devices_in, value), set())
    return set()


class Watched(Policy):
    """Another policy, whose views are looked at before it sees them."""

    name = "watched"

    def __init__(self, policy):
        self.policy, self.seen = policy, {}

    def layers(self, num_layers, first_prunable):
        return self.policy.layers(num_layers, first_prunable)

    def needs_attention(self, num_layers):
        return self.policy.needs_attention(num_layers)

    def skips(self, num_layers):
        return self.policy.skips(num_layers)

    def replacement(self, layer):
        return self.policy.replacement(layer)

    def decide(self, view):
        self.seen[view.layer] = view.hidden.device
        assert devices_in(view) == {view.hidden.device}
        if view.attention_inputs is not None:
            assert devices_in(view.attention_inputs.plain()) == {view.hidden.device}
        return self.policy.decide(view)


def gates():
    made = la.ExitGates(32, (1, 2, 3), width=8)
    draw = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    return la.VisualExit(made, threshold=0.5)


def skip_and_exit():
    made = la.SkipAdapters(32, (1, 3), llava_shape(8))
    draw = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return la.chain(la.AttentionSkip((1, 3), made.eval()), la.ExitAt(3))


POLICIES = {
    "exit": lambda: la.ExitAt([1, 3, None, 2]),
    "gates": gates,
    "schedule": lambda: la.KeepSchedule((1.0, 0.5, 0.5, 0.25)),
    "attentive": lambda: la.KeepSchedule((1.0, 0.5, 0.5, 0.25), ranking="last-token"),
    "skip-and-exit": skip_and_exit,
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_tensor_is_on_the_device_of_the_hidden_states(name):
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    with attach(example.model, POLICIES[name]()) as run:
        expected = example.model.generate(**inputs, **GREEDY)
    trace = run.trace
    with two_devices(), torch.no_grad():
        spread(example.model)
        given = {key: value.to(FIRST) for key, value in inputs.items()}
        policy = Watched(POLICIES[name]())
        with attach(example.model, policy) as run:
            found = example.model.generate(**given, **GREEDY)
    assert isinstance(found, Placed)
    assert torch.equal(found.inner, expected)
    assert replace(run.trace, notes={}) == replace(trace, notes={})  # a gate's probabilities are rounded otherwise
    assert set(policy.seen.values()) <= {FIRST, SECOND}
    assert policy.seen.get(3, SECOND) == SECOND  # layer 3 is asked where layer 2 ran


def test_the_reference_and_a_run_that_is_gone_on_with():
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    with torch.no_grad(), attach(example.model, Thin()):
        expected = example.model(**inputs).logits[:, -1]
    with two_devices(), torch.no_grad():
        spread(example.model)
        given = {key: value.to(FIRST) for key, value in inputs.items()}
        with reference(example.model, Watched(Thin())):
            masked = example.model(**given).logits[:, -1]
        start, _ = pause(example.model, given)
        ended = start.run(Watched(POLICIES["attentive"]()), until=3).run(Watched(la.ExitAt(3)))
    assert ended.layer == 4
    torch.testing.assert_close(masked.inner, expected, atol=1e-5, rtol=1e-5)


def test_the_judge_judges():
    with two_devices():
        one, other = torch.ones(3, device=FIRST), torch.ones(3, device=SECOND)
        with pytest.raises(AssertionError, match="on tensors of"):
            one + other
        assert (one.to(SECOND) + other).device == SECOND
