"""A second look gives each row exactly what the policy it ended with gives it alone: prefill, cache, decoding."""

from dataclasses import replace

import pytest
import torch
from shared_tiny import tiny

import lookaway as la
from lookaway.core.decision import Policy, Retry
from lookaway.core.errors import AttachError, SettingsError, UnsupportedModel
from lookaway.policies.second_look import confidence

FAMILIES = ["llava", "llava_next", "qwen2_5_vl", "internvl", "smolvlm", "lavin"]
LAYERS = 4


class Rows(Policy):
    """A second look of which a test says which rows look again."""

    name = "rows"

    def __init__(self, first, then, rows):
        self.first, self.then, self.rows = first, then, rows

    def layers(self, num_layers, first_prunable):
        return self.first.layers(num_layers, first_prunable)

    def needs_attention(self, num_layers):
        return self.first.needs_attention(num_layers)

    def decide(self, view):
        return self.first.decide(view)

    def needs_vision(self):
        return self.first.needs_vision()

    def retry(self):
        return Retry(self.then, lambda logits: torch.tensor(self.rows, device=logits.device))


def keep(share, layer=2, ranking="last-token"):
    return la.KeepSchedule.from_steps({layer: share}, LAYERS, ranking=ranking)


PAIRS = {
    "shares": (keep(0.2), keep(0.7)),
    "then-earlier": (keep(0.2, 3), keep(0.5, 1)),
    "exit-then-share": (la.ExitAt(2), keep(0.5)),
    "never-then": (keep(0.3, ranking="uniform"), la.KeepAll()),
    "before-the-decoder": (la.DivPrune(0.3), keep(0.7)),
    "vision-then": (la.VisionZip(0.5), la.DivPrune(0.6)),
    "both-before": (keep(0.2, 0, "uniform"), la.chain(la.DivPrune(0.8), keep(0.5, 3))),
    "then-before": (keep(0.2), la.CDPruner(0.5)),
    "narrower": (keep(0.7), keep(0.2, ranking="key-norm")),
}


def answers(model, inputs, policy, count=5):
    with torch.no_grad(), la.attach(model, policy) as run:
        out = model.generate(**inputs, max_new_tokens=count, do_sample=False, output_logits=True,
                             return_dict_in_generate=True, eos_token_id=None)  # fmt: skip
    return torch.stack(out.logits, 1), out.sequences[:, -count:], out.past_key_values, run.trace


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_answers_as_under_the_policy_it_ended_with(family, pair):
    example = tiny(family, num_layers=LAYERS)
    inputs, (first, then) = example.inputs("left_padded"), PAIRS[pair]
    if first.needs_vision() and la.anatomy(example.model).vision is None:
        with pytest.raises(UnsupportedModel, match="vision tower's own attention"):
            la.attach(example.model, Rows(first, then, [True]))
        return
    rows = len(inputs["input_ids"])
    example.model.double()  # in single precision the two passes round differently, by up to 3e-5
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    again = [row % 2 == 0 for row in range(rows)]
    logits, tokens, cache, trace = answers(example.model, inputs, Rows(first, then, again))
    singles = [answers(example.model, inputs, policy) for policy in (first, then)]
    has_image = [bool(n) for n in trace.visual_tokens[0]]
    assert trace.looked_again == [a and h for a, h in zip(again, has_image, strict=True)]
    for row, looked in enumerate(trace.looked_again):
        one = singles[looked]
        assert torch.allclose(logits[row], one[0][row], atol=1e-6)  # some families hand logits on in single precision
        assert torch.equal(tokens[row], one[1][row])
        assert [layer[row] for layer in trace.visual_tokens] == [layer[row] for layer in one[3].visual_tokens]
        assert trace.exit_layers[row] == one[3].exit_layers[row]
    held = [layer.keys.shape[2] for layer in cache.layers]
    assert held == [slots + 4 for slots in trace.cache_slots]


@pytest.mark.parametrize("kind", ["single", "right_padded"])
def test_other_batches_in_one_forward(kind):
    example = tiny("llava", num_layers=LAYERS)
    inputs = example.inputs(kind)
    rows = len(inputs["input_ids"])
    again = [row % 2 == 0 for row in range(rows)]
    with torch.no_grad():
        with la.attach(example.model, Rows(keep(0.2), keep(0.7), again)) as run:
            both = example.model(**inputs).logits
        singles = []
        for policy in (keep(0.2), keep(0.7)):
            with la.attach(example.model, policy) as one:
                singles.append((example.model(**inputs).logits, *one.kept_columns()))
    index, valid = run.kept_columns()
    for row, looked in enumerate(run.trace.looked_again):
        logits, columns, real = singles[looked]
        assert torch.equal(index[row][valid[row]], columns[row][real[row]])
        assert torch.allclose(both[row][valid[row]], logits[row][real[row]], atol=1e-5)


@pytest.mark.parametrize(("threshold", "ends_with"), [(0.0, "first"), (1.0, "then")])
def test_no_row_and_every_row(threshold, ends_with):
    example = tiny("llava", num_layers=LAYERS)
    policy = la.SecondLook(keep(0.2), keep(0.7), threshold)
    inputs = example.inputs("left_padded")
    logits, tokens, _, trace = answers(example.model, inputs, policy)
    alone = answers(example.model, inputs, getattr(policy, ends_with))
    assert torch.allclose(logits, alone[0], atol=1e-5)
    assert torch.equal(tokens, alone[1])
    assert trace.visual_tokens == alone[3].visual_tokens
    assert any(trace.looked_again) == (ends_with == "then")


def test_both_passes_are_counted():
    example = tiny("llava", num_layers=LAYERS)
    inputs = example.inputs("single")
    first, then = la.ExitAt(2), keep(0.5, ranking="uniform")
    trace = answers(example.model, inputs, Rows(first, then, [True]))[3]
    alone = [answers(example.model, inputs, policy)[3] for policy in (first, then)]
    shape, cheap = trace.shape, alone[0]
    twice = sum(shape.layer_flops(layer[0]) for layer in cheap.tokens[2:])
    assert trace.cost().flops == alone[1].cost().flops + twice
    assert trace.row_cost(0).flops == trace.cost().flops
    assert trace.cost().kv_bytes == alone[1].cost().kv_bytes
    assert trace.notes[2]["second_look"] == [1.0]


def test_attention_that_must_be_seen_again_is_one_more_layer():
    example = tiny("llava", num_layers=LAYERS)
    trace = answers(example.model, example.inputs("single"), Rows(keep(0.2), keep(0.7), [True]))[3]
    assert [bool(layer[0]) for layer in trace.first_pass_tokens] == [False, True, True, True]


def test_what_it_cannot_do_is_refused():
    example = tiny("llava", num_layers=LAYERS)
    inputs = example.inputs("single")
    policy = la.SecondLook(keep(0.2), keep(0.7))
    with la.attach(example.model, policy), pytest.raises(UnsupportedModel, match="output_hidden_states"):
        example.model(**inputs, output_hidden_states=True)
    with pytest.raises(AttachError, match="carried out by"):
        la.reference(example.model, policy)
    with pytest.raises(SettingsError, match="cannot be a part of a chain"):
        la.chain(policy, la.ExitAt(3))
    with pytest.raises(SettingsError, match="is a second look itself"):
        la.SecondLook(policy, keep(0.9))
    with pytest.raises(SettingsError, match="confidence from 0 to 1"):
        la.SecondLook(keep(0.2), keep(0.7), threshold=1.5)
    with pytest.raises(UnsupportedModel, match="sliding-window"):
        la.attach(tiny("gemma3", num_layers=LAYERS).model, policy)


def test_features_added_between_layers_are_not_missed():
    example = tiny("qwen3_vl", num_layers=8)
    inputs = example.inputs("left_padded")

    def late(share):
        return la.KeepSchedule.from_steps({6: share}, 8, ranking="uniform")

    rows = [row % 2 == 0 for row in range(len(inputs["input_ids"]))]
    logits, *_, trace = answers(example.model, inputs, Rows(late(0.2), late(0.7), rows))
    singles = [answers(example.model, inputs, policy)[0] for policy in (late(0.2), late(0.7))]
    for row, looked in enumerate(trace.looked_again):
        assert torch.allclose(logits[row], singles[looked][row], atol=1e-5)
    example = tiny("llava", num_layers=LAYERS)
    example.model.model.language_model.layers[2].register_forward_hook(lambda layer, args, out: out + 0.1)
    policy = la.SecondLook(keep(0.2), keep(0.7), threshold=1.0)
    with pytest.raises(UnsupportedModel, match="changes its states between layers"):
        answers(example.model, example.inputs("single"), policy)
    example = tiny("qwen3_vl", num_layers=8)
    for policy in (la.SecondLook(la.DivPrune(0.3), la.ExitAt(7)), la.SecondLook(la.ExitAt(7), la.DivPrune(0.3))):
        with pytest.raises(UnsupportedModel, match="changes its states between layers"):
            answers(example.model, example.inputs("left_padded"), replace(policy, threshold=1.0))


def test_confidences_lie_between_0_and_1_and_rise_with_certainty():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]])
    for kind in ("probability", "margin", "entropy"):
        found = confidence(logits, kind).tolist()
        assert found == sorted(found)
        assert -1e-6 <= found[0] < found[1] < found[2] <= 1 + 1e-6
    with pytest.raises(SettingsError, match="No confidence 'vibes'"):
        confidence(logits, "vibes")


def test_it_is_for_the_model_that_one_of_its_parts_knows_by_its_weights():
    identity = la.anatomy(tiny("llava").model).identity
    bare, known = (la.ExitAt(k).with_base(base) for k, base in ((2, replace(identity, weights="")), (3, identity)))
    look = la.SecondLook(bare, known, 0.5)
    assert look.base == identity
    other = replace(identity, weights="0" * 32)
    moved = look.with_base(other)
    assert [part.base for part in (moved, moved.first, moved.then)] == [other] * 3


def test_parts_that_were_changed_after_they_were_certified_lose_their_guarantee(tmp_path):
    gates = la.ExitGates(8, (1, 2), width=8)
    shown = {"policy": "f" * 32, "epsilon": 0.03, "delta": 0.05, "samples": 200, "changed": 0, "bound": 0.01}
    certified = la.VisualExit(gates, 0.5, guarantee=shown)
    folder = la.SecondLook(certified, la.ExitAt(3), 0.5).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="first was changed after it was certified"):
        assert la.load(folder).first.guarantee is None


class Noting(la.Policy):
    """Another policy, which notes its name's number before each of its layers."""

    name = "noting"

    def __init__(self, policy, **notes):
        self.policy, self.notes = policy, notes

    def layers(self, num_layers, first_prunable):
        return self.policy.layers(num_layers, first_prunable)

    def decide(self, view):
        found = {name: torch.full((len(view.hidden),), float(value)) for name, value in self.notes.items()}
        return replace(self.policy.decide(view), notes=found)


def test_notes_are_of_the_pass_that_each_row_ended_with():
    example = tiny("llava", num_layers=LAYERS)
    first, then = (
        Noting(keep(0.2, ranking="uniform"), mine=1, both=3),
        Noting(keep(0.7, ranking="uniform"), other=2, both=4),
    )
    again = [True, False, True, False]  # the third row has no picture, so it never looks again
    with torch.no_grad(), la.attach(example.model, Rows(first, then, again)) as run:
        example.model(**example.inputs("left_padded"))
    assert run.trace.looked_again == [True, False, False, False]
    notes = {name: [None if value != value else value for value in row] for name, row in run.trace.notes[2].items()}
    assert notes["both"] == [4, 3, 3, 3]
    assert notes["mine"] == [None, 1, 1, 1]
    assert notes["other"] == [2, None, None, None]
    assert run.trace.notes[2]["second_look"] == [1, 0, 0, 0]


def test_the_card_does_not_pass_a_part_s_guarantee_on(tmp_path):
    gates = la.VisualExit(la.ExitGates(32, (1, 2), width=4), 0.5)
    shown = {"epsilon": 0.1, "delta": 0.05, "samples": 40, "changed": 0, "bound": 0.07}
    certified = gates.with_threshold(0.5, shown)
    for pair in ((certified, keep(0.5)), (keep(0.5), certified)):
        folder = la.SecondLook(*pair).save_pretrained(tmp_path / "looks")
        assert "Nothing is guaranteed about this second look." in (folder / "README.md").read_text()
    assert "Nothing is guaranteed about" not in la.SecondLook(gates, keep(0.5)).card()
