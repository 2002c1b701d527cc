"""The guarantee holds at the stated rate, and is refused where it cannot be made."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import table
from scipy.stats import binom

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.bounds import allowed_changes, samples_needed, upper_bound, what_can_be_shown
from lookaway.core.errors import DataError, SettingsError
from lookaway.training.calibration import (
    CalibrationOptions,
    calibrate,
    calibrated,
    default_thresholds,
    one_per_image,
)

LOOSE = CalibrationOptions(epsilon=0.1, delta=0.1)


class Scores(la.ExitGates):
    """Gates that read their probability off feature 0: synthetic draws know the truth."""

    def __init__(self):
        super().__init__(1, (1,), width=1, norm="none")

    def forward(self, features, layer):
        return torch.logit(features[..., 0].float().clamp(1e-6, 1 - 1e-6))


SCORES = la.VisualExit(Scores())


def draws(samples, seed):
    """One candidate exit; a sample of score u is wrong there with probability (1 - u) / 2."""
    draw = torch.Generator().manual_seed(seed)
    score = torch.rand(samples, generator=draw)
    agree = torch.rand(samples, generator=draw) > (1 - score) / 2
    base = table(samples, layers=(1,), hidden=1)
    return replace(base, features=torch.stack([score, score], 1)[:, None], agree=agree[:, None])


def true_risk(threshold):
    """P(score > t and wrong) = integral of (1 - u) / 2 from t to 1."""
    return (1 - threshold) ** 2 / 4


def test_the_guarantee_holds_at_the_stated_rate():
    gates, misses, exits, trials = SCORES, 0, 0, 400
    for seed in range(trials):
        found = calibrate(gates, draws(300, seed), LOOSE)
        if found.threshold is not None:
            exits += 1
            misses += true_risk(found.threshold) > LOOSE.epsilon
    assert exits > 0.95 * trials  # a guarantee that is never made would hold too
    assert misses <= binom.ppf(0.999, trials, LOOSE.delta)  # delta and the Monte Carlo error
    assert misses > 0  # and the bound is not idle: some draws mislead


def test_the_threshold_is_about_as_bold_as_it_may_be():
    found = calibrate(SCORES, draws(20_000, 0), LOOSE)
    boldest = 1 - 2 * LOOSE.epsilon**0.5
    assert boldest < found.threshold < boldest + 0.08


@given(n=st.integers(1, 300), share=st.floats(0, 1), delta=st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None)
def test_the_bound_is_exact(n, share, delta):
    changed = int(share * n)
    bound = upper_bound(changed, n, delta)
    assert changed / n <= bound <= 1
    if changed < n:
        assert binom.cdf(changed, n, bound) == pytest.approx(delta, rel=1e-4)  # its definition


def test_no_guarantee_with_too_few_samples():
    found = calibrate(SCORES, draws(20, 0), CalibrationOptions(epsilon=0.01))
    assert found.threshold is None
    assert "at least 299" in found.reason
    policy = calibrated(la.VisualExit(Scores(), 0.3), found)
    assert policy.threshold is None
    assert policy.layers(30, 1) == ()
    assert "never exits" in policy.card()


def test_no_guarantee_where_the_safest_threshold_fails():
    data = draws(2000, 0)
    found = calibrate(SCORES, replace(data, agree=torch.zeros_like(data.agree)), thresholds=(0.9, 0.5))
    assert found.threshold is None
    assert "already the safest" in found.reason
    assert len(found.tested) == 1


def test_testing_stops_at_the_first_failure():
    found = calibrate(SCORES, draws(3000, 1), LOOSE)
    assert [row["bound"] <= LOOSE.epsilon for row in found.tested] == [True] * (len(found.tested) - 1) + [False]
    assert found.threshold == found.tested[-2]["threshold"]


def test_the_guarantee_is_saved_with_the_policy(tmp_path):
    policy = la.VisualExit(la.ExitGates(1, (1,), width=2))
    found = calibrate(policy, draws(500, 0), CalibrationOptions(epsilon=0.4, min_layer=1))
    loaded = la.load(calibrated(policy, found).save_pretrained(tmp_path / "gates"))
    assert loaded.threshold == found.threshold
    assert loaded.guarantee == {**found.guarantee(), "policy": loaded.certified_digest()}
    assert "with confidence 95%, at most 40.0%" in (tmp_path / "gates" / "README.md").read_text()
    assert {"threshold", "epsilon", "delta", "samples", "changed", "bound"} <= set(found.record())


def layered(**settings):
    """Gates of three layers whose probability is feature 0, and a table in which the exit at layer 1 is always wrong,
    that at 2 half the time, and that at 3 never."""

    class Three(Scores):
        def __init__(self):
            la.ExitGates.__init__(self, 1, (1, 2, 3), width=1, norm="none")

    base = table(400, layers=(1, 2, 3), hidden=1)
    agree = torch.tensor([[False, n % 2 == 0, True] for n in range(400)])
    features = torch.full((400, 3, 2), 0.9995)
    return la.VisualExit(Three(), 0.5, **settings), replace(base, features=features, agree=agree)


@pytest.mark.parametrize(
    ("settings", "option", "changed"),
    [({}, None, 400), ({"layers": [3]}, None, 0), ({"layers": [2, 3]}, None, 200), ({"min_layer": 3}, None, 0),
     ({"min_layer": 2}, None, 200), ({"min_layer": 3}, 2, 200), ({"layers": [3]}, 1, 0)],
)  # fmt: skip
def test_the_bound_is_that_of_the_saved_policy(settings, option, changed):
    """0.1 counted exits at layers that the policy does not use, and saved another smallest layer than the policy's."""
    policy, data = layered(**settings)
    found = calibrate(policy, data, CalibrationOptions(epsilon=0.999, delta=0.1, min_layer=option), thresholds=(0.9,))
    assert found.changed == changed
    saved = calibrated(policy, replace(found, threshold=0.9))
    exits = saved.exits(data)
    live = sum(not data.agree[n, exits[n]] for n in range(len(data)) if exits[n] < 3)
    assert live == changed  # counted again on the very object
    assert saved.asked == policy.asked
    assert saved.min_layer == (policy.min_layer if option is None else option)


def test_a_table_that_lacks_a_layer_of_the_policy_cannot_certify_it():
    policy, data = layered()
    short = replace(data, layers=(1, 3), features=data.features[:, ::2], agree=data.agree[:, ::2],
                    loss=data.loss[:, ::2], match=data.match[:, ::2])  # fmt: skip
    with pytest.raises(DataError, match="The table has no layer 2, at which this policy may exit"):
        calibrate(policy, short, LOOSE)


@pytest.mark.parametrize("key", ["threshold", "min_layer", "layers"])
def test_a_folder_that_was_changed_after_certification_claims_nothing(tmp_path, key):
    policy = la.VisualExit(la.ExitGates(1, (1, 2), width=2))
    found = calibrate(policy, table(50, layers=(1, 2), hidden=1), CalibrationOptions(epsilon=0.9, delta=0.4))
    folder = calibrated(policy, found).save_pretrained(tmp_path / "gates")
    assert la.load(folder).guarantee["epsilon"] == 0.9
    document = json.loads((folder / "config.json").read_text())
    document["config"][key] = {"threshold": 0.01, "min_layer": 2, "layers": [2]}[key]
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="was changed after it was certified"):
        changed = la.load(folder)
    assert changed.guarantee is None
    assert "nothing is guaranteed" in changed.card()


def test_every_use_of_a_policy_that_never_exits_warns(tmp_path):
    model = tiny("llava").model
    policy = la.VisualExit(la.ExitGates(32, (1, 2), width=2), None)
    folder = policy.save_pretrained(tmp_path / "gates")
    with pytest.warns(UserWarning, match="they never exit"):
        loaded = la.load(folder)
    for one in (loaded, la.chain(la.ExitAt(3), policy)):
        with pytest.warns(UserWarning, match="Nothing will be dropped: these gates have no threshold"):
            la.attach(model, one).detach()


@pytest.mark.parametrize(
    ("samples", "epsilon", "delta"), [(99, 0.03, 0.05), (98, 0.03, 0.05), (600, 0.03, 0.05), (400, 0.02, 0.1)]
)
def test_what_can_be_shown_is_the_exact_binomial(samples, epsilon, delta):
    allowed = allowed_changes(samples, epsilon, delta)
    assert upper_bound(allowed + 1, samples, delta) > epsilon
    assert allowed < 0 or upper_bound(allowed, samples, delta) <= epsilon
    assert (samples < samples_needed(epsilon, delta)) == (allowed < 0)
    words = what_can_be_shown(samples, epsilon, delta)
    assert f"can show at best {1 - delta ** (1 / samples):.2%}" in words
    assert (f"at most {allowed} of them" in words) == (allowed >= 0)


def test_one_question_of_an_image_counts():
    data = draws(600, 0)
    images = {name: f"picture-{int(name[1:]) // 6}" for name in data.ids}
    assert len(one_per_image(data, images)) == 100
    assert one_per_image(data, images).ids == one_per_image(data, images).ids
    assert calibrate(SCORES, data, LOOSE, images).samples == 100
    assert calibrate(SCORES, data, replace(LOOSE, one_per_image=False), images).samples == 600


def test_bad_input():
    with pytest.raises(DataError, match="empty"):
        calibrate(SCORES, draws(5, 0).subset([]))
    with pytest.raises(SettingsError, match="descend"):
        calibrate(SCORES, draws(5, 0), thresholds=(0.1, 0.9))
    for wrong in ({"epsilon": 0.0}, {"epsilon": 1.5}, {"delta": -1.0}):
        with pytest.raises(SettingsError):
            CalibrationOptions(**wrong)
    order = default_thresholds()
    assert list(order) == sorted(set(order), reverse=True)
