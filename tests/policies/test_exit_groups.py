"""Gates whose decisions are read once for several layers: each row leaves at the last layer of the group that fired."""

import json

import pytest
import torch
from cases import gates

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.decision import LayerView
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.exit_table import ExitTable
from lookaway.engine.api import attach
from lookaway.policies.exit_simulation import simulate
from lookaway.training.calibration import CalibrationOptions, calibrate, calibrated

DEPTH = 10
ASKED = (1, 2, 4, 5, 6, 8, 9)
GREEDY = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3, "suppress_tokens": [IMAGE]}


def policy(read_every=1, threshold=0.55, **settings):
    return la.VisualExit(gates(3, ASKED), threshold, read_every=read_every, **settings)


def last_of_group(layer, read_every, asked=ASKED):
    """The last layer of the group that `layer` is in: groups are cut off the front, the last may be shorter."""
    left = list(asked)
    while left:
        group, left = left[:read_every], left[read_every:]
        if layer in group:
            return group[-1]
    raise AssertionError(layer)


def table(samples=40, layers=ASKED, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (samples, len(layers))
    return ExitTable(
        layers, tuple(map(str, range(samples))),
        torch.randn(*shape, 64, generator=draw), torch.rand(shape, generator=draw),
        torch.rand(samples, generator=draw), torch.ones(shape).bool(), torch.ones(samples).bool(),
        torch.rand(shape, generator=draw) < torch.linspace(0.6, 1.1, len(layers)),
    )  # fmt: skip


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("read_every", [2, 3, 20])
def test_equals_the_eager_decision_at_the_last_layer_of_its_group(family, read_every):
    """The reference: one run reads each gate at once, another exits by hand at the last layers of its groups."""
    example = tiny(family, num_layers=DEPTH)
    inputs = example.inputs("left_padded")
    with torch.no_grad(), attach(example.model, policy(threshold=1.0)) as run:
        example.model(**inputs)
        noted = [sorted(run.trace.notes[layer]["exit_probability"])[-2:] for layer in ASKED]
    between = [sum(two) / 2 for two in noted]  # so that one row fires at each layer
    with torch.no_grad(), attach(example.model, policy(threshold=between)) as run:
        example.model(**inputs)
        eager = run.trace.exit_layers
    assert len({layer for layer in eager if layer is not None}) > 1
    expected = [None if layer is None else last_of_group(layer, read_every) for layer in eager]
    found = []
    for how in (policy(read_every, between), la.ExitAt([DEPTH if layer is None else layer for layer in expected])):
        with torch.no_grad(), attach(example.model, how) as run:
            found.append((example.model(**inputs).logits[:, -1], example.model.generate(**inputs, **GREEDY)))
            assert run.trace.exit_layers == expected
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0][1], found[1][1])


def test_a_chain_of_two_reads_each_ones_own_probabilities():
    example = tiny("llava", num_layers=DEPTH)
    inputs = example.inputs("left_padded")
    one, two = policy(3, 0.8), la.VisualExit(gates(7, ASKED), 0.55, read_every=2)
    found = []
    for how in (one, two, la.chain(one, two)):
        with torch.no_grad(), attach(example.model, how) as run:
            example.model(**inputs)
            found.append([DEPTH if layer is None else layer for layer in run.trace.exit_layers])
    assert found[0] != found[1]
    assert found[2] == [min(pair) for pair in zip(*found[:2], strict=True)]


class TestTheTable:
    @pytest.mark.parametrize("read_every", [1, 2, 3, 7, 50])
    @pytest.mark.parametrize("settings", [{}, {"min_layer": 3}, {"layers": (2, 5, 8)}], ids=str)
    def test_a_simulated_exit_is_the_group_s_last(self, read_every, settings):
        data, one = table(), policy(read_every, **settings)
        asked = [k for k in settings.get("layers", ASKED) if k >= settings.get("min_layer", 1)]
        columns = one.exits(data)
        fired = 0
        for sample, column in zip(data.features, columns.tolist(), strict=True):
            first = next((k for k in asked if one.gates(sample[ASKED.index(k)], k).sigmoid() > 0.55), None)
            expected = len(ASKED) if first is None else ASKED.index(last_of_group(first, read_every, asked))
            assert column == expected
            fired += first is not None
        assert fired > 10

    def test_that_lacks_the_last_layer_of_a_group_says_nothing(self):
        with pytest.raises(DataError, match=r"exit at layers \[2\], which the table lacks"):
            simulate(gates(3, ASKED), table(layers=(1, 4, 5)), 0.5, layers=(1, 2, 4, 5), read_every=2)


class TestCalibration:
    def test_is_of_the_groups(self, tmp_path):
        data = table(400)
        options = CalibrationOptions(epsilon=0.2, delta=0.1, read_every=3)
        found = calibrate(policy(), data, options, thresholds=[0.9, 0.7])
        assert found.read_every == 3
        columns = policy(3, 0.9).exits(data)
        agrees = [column == len(ASKED) or bool(data.agree[i, column]) for i, column in enumerate(columns.tolist())]
        assert found.tested[0]["changed"] == agrees.count(False) > 0
        if found.threshold is None:
            pytest.fail("the table was made so that a threshold passes")
        made = calibrated(policy(), found)
        assert made.read_every == 3
        folder = made.save_pretrained(tmp_path / "gates")
        again = la.load(folder)
        assert (again.read_every, again.guarantee) == (3, made.guarantee)
        config = json.loads((folder / "config.json").read_text())
        config["config"]["read_every"] = 2
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.warns(UserWarning, match="changed after it was certified"):
            assert la.load(folder).guarantee is None

    def test_refuses_no_group_at_all(self):
        with pytest.raises(SettingsError, match="at least 1, not 0"):
            CalibrationOptions(read_every=0)


def test_what_is_kept_of_the_size():
    assert "read_every" not in policy().to_config()  # digests from before it stay what they were
    assert policy(4).to_config()["read_every"] == 4
    for other in (policy(4).with_threshold(0.3), policy(4).with_base(None), policy(4).used_after(la.FastV())):
        assert other.read_every == 4
    assert policy(4).certified_digest() != policy(3).certified_digest()
    assert "read_every=4" in repr(policy(4))
    assert "Read once for 4 of them" in policy(4).card()


def test_refused():
    for wrong in (0, 2.5, True, "2"):
        with pytest.raises(SettingsError, match=f"at least 1, not {wrong!r}"):
            policy(wrong)
    example = tiny("llava", num_layers=DEPTH)
    views = []

    class Seeing(la.ExitAt):
        def decide(self, view):
            views.append(view)
            return super().decide(view)

    with torch.no_grad(), attach(example.model, Seeing(2)):
        example.model(**example.inputs())
    view = views[0]
    assert isinstance(view, LayerView)
    with pytest.raises(DataError, match="began behind layer 1"):
        policy(2).decide(view)
