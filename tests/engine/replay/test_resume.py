"""A paused prefill that goes on equals the whole model with the policy attached."""

import pytest
import torch
from local_policies import POLICIES, Exit, Thin, policy_for
from shared_tiny import RECIPES, tiny

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import BATCH_KINDS
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import AttachError, SettingsError, UnsupportedModel
from lookaway.engine.api import attach
from lookaway.engine.replay.resume import pause
from lookaway.policies.attention_skip import AttentionSkip
from lookaway.policies.baselines.dart import DART
from lookaway.policies.before_decoder.cdpruner import CDPruner
from lookaway.policies.before_decoder.divprune import DivPrune
from lookaway.policies.before_decoder.downsample import Downsample
from lookaway.policies.before_decoder.visionzip import VisionZip
from lookaway.policies.fixed import KeepAll
from lookaway.policies.keep_schedule import KeepSchedule

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def last_columns(inputs):
    return inputs["attention_mask"].shape[1] - 1 - inputs["attention_mask"].flip(1).argmax(1)[:, None]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("batch", [kind for kind in BATCH_KINDS if kind != "single"])
@pytest.mark.parametrize(("family", "attention"), [*((family, "sdpa") for family in RECIPES), ("llava", "eager")])
def test_going_on_equals_the_attached_policy(family, attention, batch, name):
    model = tiny(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    rows = len(inputs["input_ids"])
    policy = policy_for(name, rows)
    layer = 0 if 0 in policy.layers(4, 1) else None
    start, full = pause(model.model, inputs, layer)
    columns = last_columns(inputs)
    with attach(model.model, policy) as attached:
        logits = model.model(**inputs, use_cache=False).logits
    index, valid = attached.kept_columns()
    wanted = torch.stack(
        [logits[row, (index[row] == columns[row]) & valid[row]][0] for row in range(rows)]
    )  # fmt: skip
    ended = start.run(policy_for(name, rows))
    torch.testing.assert_close(ended.logits(columns)[:, 0], wanted, **TOLERANCE)
    assert ended.trace.visual_tokens == attached.trace.visual_tokens
    assert ended.trace.exit_layers == attached.trace.exit_layers
    assert ended.trace.tokens == attached.trace.tokens
    dense = model.model(**inputs, use_cache=False).logits
    plain = dense.gather(1, columns[:, :, None].expand(-1, -1, dense.shape[-1]))
    torch.testing.assert_close(full.logits(columns), plain, **TOLERANCE)


BEFORE = {
    "divprune": DivPrune(0.4),
    "cdpruner": CDPruner(0.4),
    "visionzip": VisionZip(0.5),
    "downsample": Downsample(2),
    "uniform": KeepSchedule.from_steps({0: 0.4, 3: 0.2}, 4, ranking="uniform"),
    "dart": DART(0, 0.5),
}


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_methods_before_the_decoder_go_on_from_layer_0_as_in_a_live_run(family, name):
    model, policy = tiny(family), BEFORE[name]
    inputs = model.inputs("left_padded")
    columns = last_columns(inputs)
    rows = range(len(columns))
    try:
        with attach(model.model, policy) as attached:
            logits = model.model(**inputs, use_cache=False).logits
    except (
        UnsupportedModel,
        SettingsError,
    ) as refused:  # what the family does not give is refused here in the same words
        with pytest.raises(type(refused), match=str(refused)[:40]):
            pause(model.model, inputs, 0, vision=policy.needs_vision())[0].run(policy)
        return
    index, valid = attached.kept_columns()
    wanted = torch.stack([logits[row, (index[row] == columns[row]) & valid[row]][0] for row in rows])
    ended = pause(model.model, inputs, 0, vision=policy.needs_vision())[0].run(policy)
    torch.testing.assert_close(ended.logits(columns)[:, 0], wanted, **TOLERANCE)
    assert ended.trace.visual_tokens == attached.trace.visual_tokens
    assert 0 < max(ended.trace.visual_tokens[0]) < int(inputs["input_ids"].shape[1])


def test_stopping_on_the_way_changes_nothing_and_leaves_the_pause_as_it_was():
    model = tiny("llava_next")
    inputs = model.inputs("left_padded")
    start, _ = pause(model.model, inputs)
    whole = start.run(Thin((1, 2, 3)))
    middle = start.run(Thin((1,)), until=2)
    on_the_way = middle.run(Thin((2, 3)))
    again = middle.run(Thin((2, 3)))
    columns = last_columns(inputs)
    assert torch.equal(whole.logits(columns), on_the_way.logits(columns))
    assert torch.equal(on_the_way.logits(columns), again.logits(columns))
    assert middle.layer == 2
    assert middle.trace.visual_tokens[3] == middle.trace.visual_tokens[1]
    assert start.run(Exit(3)).trace.exit_layers == [3, 3, None, 3]


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_one_run_from_before_the_decoder_serves_policies_that_begin_later(family):
    model = tiny(family)
    inputs = model.inputs("left_padded")
    columns = last_columns(inputs)
    anatomy = anatomy_of(model.model)
    first = anatomy.first_prunable_layer
    begun = pause(model.model, inputs, 0)[0].run(KeepAll(), until=first)
    direct = pause(model.model, inputs, first)[0]
    policy = KeepSchedule.from_steps({first: 0.4}, anatomy.num_layers, ranking="last-token")
    for chosen in (KeepAll(), policy):
        torch.testing.assert_close(
            begun.run(chosen).logits(columns), direct.run(chosen).logits(columns), **TOLERANCE
        )  # fmt: skip
    assert begun.run(policy).trace.visual_tokens == direct.run(policy).trace.visual_tokens


def test_teacher_forced_answers_stay_and_are_not_seen():
    class Last(Policy):
        """Drops all but the visual tokens most like the last text token that it sees."""

        name = "last"
        seen: list = []  # noqa: RUF012

        def layers(self, num_layers, first_prunable):
            return (1, 3)

        def decide(self, view):
            places = torch.arange(view.layout.text.shape[1])
            last = (places * view.layout.text).amax(1)
            self.seen.append(view.layout.text.sum(1).tolist())
            near = (view.hidden * view.hidden[torch.arange(len(last)), last][:, None]).sum(-1)
            return Decision(keep=view.layout.text | (view.layout.visual & (near > 0)))

    model = tiny("llava")
    prompt = model.inputs("left_padded")
    answer = torch.tensor([[11, 12, 13]] * 4)
    longer = {**prompt, "input_ids": torch.cat([prompt["input_ids"], answer], 1),
              "attention_mask": torch.cat([prompt["attention_mask"], torch.ones_like(answer)], 1)}  # fmt: skip
    answers = torch.zeros_like(longer["input_ids"], dtype=torch.bool)
    answers[:, -3:] = True
    for inputs in (prompt, longer):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    short = pause(model.model, prompt)[0].run(Last())
    long = pause(model.model, longer, answers=answers)[0].run(Last())
    assert Last.seen[:2] == Last.seen[2:]  # with and without answers it saw the same text
    column = torch.full((4, 1), prompt["input_ids"].shape[1] - 1)
    torch.testing.assert_close(long.logits(column), short.logits(column), **TOLERANCE)
    assert long.trace.visual_tokens == short.trace.visual_tokens
    assert 0 < long.trace.visual_tokens[3][0] < 16
    long.logits(torch.full((4, 1), answers.shape[1] - 1))  # all answers are still there


def test_what_cannot_be_gone_on_with_is_refused():
    model = tiny("llava")
    inputs = model.inputs()
    start, full = pause(model.model, inputs, layer=2)
    with pytest.raises(SettingsError, match="paused before layer 2 of 4 cannot go on to layer 1"):
        start.run(Exit(3), until=1)
    with pytest.raises(SettingsError, match="run it to the end"):
        start.logits(torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(SettingsError, match="no longer there"):
        start.run(Exit(3)).logits(torch.full((1, 1), 5))
    with pytest.raises(AttachError, match="wants to remove before layers"):
        start.run(Exit(4))
    with attach(model.model, Exit(2)), pytest.raises(AttachError, match="attached to this model already"):
        pause(model.model, inputs)
    layer = model.model.model.language_model.layers[2]
    hook = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
    with pytest.raises(UnsupportedModel, match="between layers 1 and 2"):
        pause(model.model, inputs)
    hook.remove()
    assert full.layer == 4


def test_a_policy_that_skips_attention_is_refused():
    model = tiny("llava")
    start, _ = pause(model.model, model.inputs("single"))
    with pytest.raises(UnsupportedModel, match=r"skips the attention of layers \[1\]"):
        start.run(AttentionSkip((1,)))


@pytest.mark.parametrize(("family", "first"), [("llava", 0), ("qwen3_vl", 1)])
def test_a_paused_run_knows_from_which_layer_on_the_states_are_left_alone(family, first):
    model = tiny(family)
    assert pause(model.model, model.inputs("single"))[0].unchanged_from == first
