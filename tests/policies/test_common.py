"""What holds for every policy of the table."""

import pytest
import torch
from cases import CASES, HIDDEN, LAYERS, ROWS

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.attention_inputs import AttentionInputs
from lookaway.core.layout import TokenLayout
from lookaway.core.vision_inputs import VisionInputs


def view_of(layer, rows=ROWS, seed=0, slots=14):
    draw = torch.Generator().manual_seed(seed)
    visual = torch.zeros(rows, slots, dtype=torch.bool)
    visual[:, 3:9] = True
    visual[rows // 2] = False  # a row without image
    mask = torch.ones(rows, slots, dtype=torch.long)
    mask[-1, :2] = 0
    layout = TokenLayout.from_masks(visual, mask, grid=(2, 3))
    hidden = torch.randn(rows, slots, HIDDEN, generator=draw)
    queries, keys = (torch.randn(rows, heads, slots, 8, generator=draw) for heads in (4, 2))
    attention_inputs = AttentionInputs(queries, keys, ~layout.padding, 8**-0.5, lambda: (queries.flip(3), keys))
    attention, tower_keys = torch.rand(rows, slots, generator=draw), torch.randn(rows, slots, 8, generator=draw)
    vision = VisionInputs(attention * visual, tower_keys * visual[:, :, None]) if layer == 0 else None
    seen = attention_inputs if layer else None
    noted = {"information": torch.rand(rows, generator=draw), "entering": layout.visual_counts}
    noted["exit_probability"] = torch.rand(rows, generator=draw)
    earlier = dict.fromkeys(range(layer), noted)  # what a policy may have noted itself
    twig = attention_inputs if layer else None
    return la.LayerView(layer, LAYERS, layout, hidden, layout.visual_counts, seen, vision, earlier, twig)


def test_every_registered_policy_has_a_row():
    rows = {CASES[name].make(ROWS).name for name in CASES}
    assert rows == set(la.policies())
    assert all(la.policies().values())


@pytest.mark.parametrize("name", ["keep-all", "exit-at-never", "attention-skip", "fastv", "keep-schedule", "cdpruner"])
def test_what_always_keeps_some_tokens_does_not_exit(name):
    assert not CASES[name].make(ROWS).can_exit(LAYERS)


@pytest.mark.parametrize("name", CASES)
class TestEvery:
    def test_layers_are_valid_for_the_depth(self, name):
        layers = CASES[name].make(ROWS).layers(LAYERS, 1)
        assert list(layers) == sorted(set(layers))
        assert all(0 <= layer < LAYERS for layer in layers)

    def test_what_removes_all_tokens_of_a_row_says_that_it_can_exit(self, name):
        policy = CASES[name].make(ROWS)
        emptied = False
        for layer in policy.layers(LAYERS, 1):
            view = view_of(layer)
            keep = policy.decide(view).keep
            if keep is not None:
                emptied |= bool(((view.layout.visual & keep).sum(1) == 0)[view.has_visual_tokens].any())
        assert policy.can_exit(LAYERS) or not emptied

    def test_keeps_all_text_and_shapes(self, name):
        policy = CASES[name].make(ROWS)
        for layer in policy.layers(LAYERS, 1):
            view = view_of(layer)
            before = view.hidden.clone()
            decision = policy.decide(view)
            assert torch.equal(view.hidden, before)
            assert all(note.shape == (ROWS,) for note in decision.notes.values())
            if decision.keep is not None:
                assert decision.keep.shape == view.layout.text.shape
                assert decision.keep.dtype == torch.bool
                assert bool(decision.keep[view.layout.text].all())
            if decision.values is not None:
                assert decision.values.shape == view.hidden.shape
                assert decision.values.dtype == view.hidden.dtype
                still = view.layout.text | view.layout.padding
                assert torch.equal(decision.values[still], view.hidden[still])

    def test_is_deterministic(self, name):
        first, second = CASES[name].make(ROWS), CASES[name].make(ROWS)
        for layer in first.layers(LAYERS, 1):
            a, b, c = first.decide(view_of(layer)), first.decide(view_of(layer)), second.decide(view_of(layer))
            for other in (b, c):
                assert (a.keep is None) == (other.keep is None)
                assert a.keep is None or torch.equal(a.keep, other.keep)
                assert a.values is None or torch.equal(a.values, other.values)

    def test_round_trip(self, name, tmp_path):
        policy = CASES[name].make(ROWS)
        loaded = la.load(policy.save_pretrained(tmp_path / "policy"))
        assert type(loaded) is type(policy)
        assert loaded.to_config() == policy.to_config()
        assert loaded.layers(LAYERS, 1) == policy.layers(LAYERS, 1)
        assert loaded.skips(LAYERS) == policy.skips(LAYERS)
        for layer in policy.layers(LAYERS, 1):
            ours, theirs = policy.decide(view_of(layer)), loaded.decide(view_of(layer))
            assert (ours.keep is None) == (theirs.keep is None)
            assert ours.keep is None or torch.equal(ours.keep, theirs.keep)
        assert (tmp_path / "policy" / "README.md").read_text().count("```") == 2

    def masked(self, example, inputs, policy, trace):
        """(logits at full length, exit layers); of two passes, each row's under the policy it ended with."""
        found = []
        for part in (policy.first, policy.then) if policy.retry() else (policy,):
            with la.reference(example.model, part) as run:
                found.append((example.model(**inputs).logits, run.trace.exit_layers))
        if len(found) == 1:
            return found[0]
        rows = list(enumerate(trace.looked_again))
        assert {again for _, again in rows} == {True, False} or len(rows) == 1
        return torch.stack([found[again][0][row] for row, again in rows]), [found[again][1][row] for row, again in rows]

    @pytest.mark.parametrize("kind", ["single", "left_padded", "right_padded"])
    def test_removal_equals_masking(self, name, kind):
        example = tiny("llava", num_layers=LAYERS)
        inputs = example.inputs(kind)
        rows = len(inputs["input_ids"])
        with torch.no_grad():
            with la.attach(example.model, CASES[name].make(rows)) as run:
                fast = example.model(**inputs).logits
            slow, exits = self.masked(example, inputs, CASES[name].make(rows), run.trace)
        assert run.trace.exit_layers == exits
        index, valid = run.kept_columns()
        slow = slow.gather(1, index[:, :, None].expand(-1, -1, slow.shape[-1]))
        assert torch.allclose(fast[valid], slow[valid], atol=1e-5)

    def test_really_drops(self, name):
        example = tiny("llava", num_layers=LAYERS)
        with torch.no_grad(), la.attach(example.model, CASES[name].make(ROWS)) as run:
            example.model(**example.inputs("left_padded"))
        dropped = run.trace.visual_tokens[-1] != run.trace.initial_visual_tokens
        assert dropped == CASES[name].exits
