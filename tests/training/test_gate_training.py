"""Gates learn what a table holds, reproducibly, and bad tables are named."""

from dataclasses import replace

import pytest
import torch
import yaml
from made_up import table

import lookaway as la
from lookaway.cli.options import from_mapping
from lookaway.core.errors import DataError, SettingsError
from lookaway.policies.exit_simulation import exit_probabilities, simulate
from lookaway.training.gate_options import PRESETS, GateOptions
from lookaway.training.gate_training import (
    choose_threshold,
    exit_labels,
    split_by_sample,
    train_gates,
    what_happens,
)

QUICK = GateOptions(width=16, epochs=30, batch_size=16, lr=5e-3, agreement=0.95)


@pytest.fixture(scope="module")
def run():
    return train_gates(table(), QUICK)


def test_gates_beat_a_fixed_exit_on_samples_they_never_saw(run):
    fresh = table(seed=1)
    found = what_happens(fresh, simulate(run.gates, fresh, run.threshold))
    assert found["agreement"] > 0.85
    fixed = fresh.agree.float().mean(0)  # agreement of a fixed exit at layer 1, 2, ...
    assert found["mean_exit"] < 5
    at_higher_cost = fixed[4]  # exit before layer 5
    assert 1 - found["agreement"] < 0.5 * (1 - at_higher_cost)  # it loses at least twice as much


def test_training_is_reproducible_and_leaves_the_random_state_alone(run):
    before = torch.random.get_rng_state()
    again = train_gates(table(), QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(run.gates.parameters(), again.gates.parameters(), strict=True))
    assert again.threshold == run.threshold
    assert train_gates(table(), replace(QUICK, seed=1)).history != run.history


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    found = train_gates(table(100), GateOptions(preset=preset, width=32))
    assert found.summary["options"]["preset"] == preset
    assert all(value is not None for value in found.summary["options"].values())
    assert len(found.history) == found.summary["epochs"]
    if preset != "light":
        assert (found.gates.two_way, found.gates.norm, len(found.history)) == (True, "none", 1)


def test_what_is_set_wins_over_the_preset():
    assert GateOptions(preset="published").filled().width == 2048
    assert GateOptions(preset="published", width=64, lr=0.1).filled().width == 64
    assert GateOptions(shared=True).filled().shared is True


@pytest.mark.parametrize("name", ["dyvte-published", "dyvte-light", "dyvte-one-random-layer"])
def test_the_committed_configs_are_the_presets(name, pytestconfig):
    values = yaml.safe_load((pytestconfig.rootpath / "configs" / f"{name}.yaml").read_text())
    options = from_mapping(GateOptions, values)
    preset = PRESETS[options.preset]
    assert name == f"dyvte-{options.preset}"
    assert {key: getattr(options, key) for key in preset} == preset


class TestLabels:
    def holed(self):
        data = table(3, layers=(1, 2, 3))
        agree = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]]).bool()
        loss = torch.tensor([[0.1, 9.0, 0.1], [0.1, 0.104, 0.1], [9.0, 9.0, 9.0]])
        return replace(data, agree=agree, loss=loss, full_loss=torch.full((3,), 0.1))

    def test_published(self):
        found = exit_labels(self.holed(), GateOptions(preset="published", absolute=0.0))
        assert found.tolist() == [[True, False, True], [True, False, True], [False] * 3]

    def test_slack(self):
        found = exit_labels(self.holed(), GateOptions(preset="published", absolute=0.01))
        assert found[1].tolist() == [True, True, True]

    def test_monotone_asks_for_all_later_exits_too(self):
        found = exit_labels(self.holed(), GateOptions(monotone=True, absolute=0.01))
        assert found.tolist() == [[False, False, True], [True, True, True], [False] * 3]

    def test_agreement_alone(self):
        found = exit_labels(self.holed(), GateOptions(criterion="agreement", absolute=0.0))
        assert torch.equal(found, self.holed().agree)


def test_questions_of_an_image_stay_on_one_side():
    ids = [f"q{i}" for i in range(300)]
    images = {name: f"picture-{int(name[1:]) // 10}" for name in ids}
    train, held = split_by_sample(ids, 0.3, 0, images)
    assert not bool((train & held).any())
    assert 0.1 < float(held.float().mean()) < 0.5
    assert all(len({bool(held[i]) for i in range(k, k + 10)}) == 1 for k in range(0, 300, 10))
    assert torch.equal(held, split_by_sample(ids, 0.3, 0, images)[1])
    assert not torch.equal(held, split_by_sample(ids, 0.3, 1, images)[1])


def test_the_threshold_is_the_boldest_that_agrees_often_enough(run):
    data = table(seed=2)
    bold, safe = choose_threshold(run.gates, data, 0.5), choose_threshold(run.gates, data, 0.99)
    assert bold[1]["agreement"] >= 0.5
    assert safe[1]["agreement"] >= 0.99
    assert bold[1]["mean_exit"] < safe[1]["mean_exit"]


class TestSimulate:
    def test_equals_the_policy_decided_layer_by_layer(self, run):
        data = table(50, seed=3)
        p = exit_probabilities(run.gates, data)
        for threshold, min_layer, layers in [(0.5, 1, None), (0.3, 3, None), (0.6, 1, (2, 4)), ([0.2] * 6, 1, None)]:
            limits = threshold if isinstance(threshold, list) else [threshold] * 6
            expected = []
            for n in range(50):
                fires = (c for c, k in enumerate(data.layers)
                         if k >= min_layer and (layers is None or k in layers) and p[n, c] > limits[c])  # fmt: skip
                expected.append(next(fires, 6))
            assert simulate(run.gates, data, threshold, min_layer, layers).tolist() == expected

    def test_never(self, run):
        data = table(5)
        assert simulate(run.gates, data, None).tolist() == [6] * 5
        assert simulate(run.gates, data, 1.0).tolist() == [6] * 5

    def test_a_table_with_other_layers(self, run):
        data = table(20).at_layers((2, 5))
        assert set(simulate(run.gates, data, 0.0).tolist()) == {0}
        strange = replace(table(4, layers=(11, 12)))
        with pytest.raises(DataError, match="none in common"):
            simulate(run.gates, strange, 0.5)

    def test_a_table_of_another_model(self, run):
        with pytest.raises(DataError, match="different models"):
            simulate(run.gates, table(4, hidden=4), 0.5)


class TestBadTables:
    def test_empty(self):
        with pytest.raises(DataError, match="empty"):
            train_gates(table(10).subset([]))

    def test_nan(self):
        data = table(10)
        data.features[3, 2, 1] = float("nan")
        with pytest.raises(DataError, match=r"1 samples have NaN.*s3"):
            train_gates(data)

    @pytest.mark.parametrize(("value", "word"), [(True, "at once"), (False, "never to exit")])
    def test_one_class_only(self, value, word):
        data = table(60)
        same = torch.full_like(data.agree, value)
        loss = data.full_loss[:, None].expand_as(data.loss) + (0 if value else 5)
        found = train_gates(replace(data, agree=same, loss=loss), QUICK)
        assert word in found.summary["warnings"][0]
        assert all(torch.isfinite(weight).all() for weight in found.gates.parameters())
        exits = simulate(found.gates, data, 0.5)
        assert (exits == 0).all() if value else (exits == 6).all()

    def test_unknown_layers(self):
        with pytest.raises(DataError, match=r"not \[9\]"):
            train_gates(table(10), GateOptions(layers=(1, 9)))

    def test_two_samples(self):
        assert len(train_gates(table(2), QUICK).history) > 0

    def test_settings(self):
        for wrong in ({"validation": 1.0}, {"batch_size": 0}, {"agreement": 2.0}):
            with pytest.raises(SettingsError):
                GateOptions(**wrong)


def test_a_trained_policy_keeps_its_story(run, tmp_path):
    policy = la.VisualExit(run.gates, run.threshold, training=run.summary)
    loaded = la.load(policy.save_pretrained(tmp_path / "gates"))
    assert loaded.training["samples"] == run.summary["samples"]
