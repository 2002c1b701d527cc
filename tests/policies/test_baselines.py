"""What is each baseline's own: where it drops how much; and its file in configs/."""

from pathlib import Path

import pytest
import torch
import yaml

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import DataError, LookawayError, SettingsError
from lookaway.policies.baselines.fitprune import fit_recipe
from lookaway.policies.baselines.shortv import PUBLISHED, least_divergent
from lookaway.policies.baselines.vtw import withdrawal_layer

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = {
    "keep-schedule", "fastv", "vtw", "pyramiddrop", "fitprune", "sparsevlm", "dart", "divprune", "visionzip",
    "random-keep", "uniform-keep", "cdpruner", "downsample", "shortv", "autoprune", "twig",
}  # fmt: skip
OTHERS = {"fastv-eighth", "second-look"}
"""Files of other settings, or of policies with tests of their own."""
DOCS = Path(__file__).parents[2] / "docs" / "methods"


def mean_keep(policy, depth=32):
    return sum(policy.entries(depth)) / depth


@pytest.mark.parametrize("name", sorted(METHODS))
def test_its_config_is_loaded_and_fits_the_depth_it_was_written_for(name):
    policy = la.load(CONFIGS / f"{name}.yaml")
    assert policy.name == name
    layers = policy.layers(32, 1)
    assert layers or policy.holds(32)
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["config"]
    saved = policy.to_config()
    if name != "sparsevlm":  # JSON's keys are text
        assert {key: saved[key] for key in written} == written
    text = (DOCS / f"{name}.md").read_text()
    assert f"configs/{name}.yaml" in text
    assert "In short" in text


def test_every_policy_file_in_configs_has_its_test():
    found = {path.stem for path in CONFIGS.glob("*.yaml") if "policy" in yaml.safe_load(path.read_text())}
    assert found == METHODS | OTHERS


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, DataError, "Cannot read the policy"),
        ("policy: [", DataError, "not valid YAML"),
        ("preset: light", DataError, "is no policy"),
        ("policy: fastv\nconfig: 3", DataError, "'config' is 3, but must map"),
        ("policy: fastv\nconfig: {layr: 2}", SettingsError, "fastv: .*'layr'.*Known: layer"),
        ("policy: fastv\nconfig: {ratio: 2}", SettingsError, "not 1.0, not 2"),
        ("policy: fastw", LookawayError, "Did you mean 'fastv'"),
    ],
)
def test_bad_policy_files_are_named(tmp_path, text, error, words):
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        la.load(path)


def test_costs_that_the_literature_gives_for_32_and_24_layers():
    """The 'memory cost' of G-Search's Table 1 is the mean keep rate: FastV .531, PyramidDrop .469 and .583."""
    assert mean_keep(la.FastV()) == pytest.approx((2 + 30 * 0.5) / 32)
    assert mean_keep(la.PyramidDrop()) == pytest.approx(0.469, abs=5e-4)
    assert mean_keep(la.PyramidDrop(steps=(8, 16)), 24) == pytest.approx(0.583, abs=5e-4)
    assert la.PyramidDrop().layers(32, 1) == (8, 16, 24)
    assert la.PyramidDrop(stages=3).layers(32, 1) == (10, 21)
    assert mean_keep(la.load(CONFIGS / "sparsevlm.yaml")) == pytest.approx(192 / 576, abs=1e-3)
    assert la.VTW(16).layers(32, 1) == (16,)
    assert la.VTW(32).layers(32, 1) == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: la.FastV(ratio=1.1),
        lambda: la.FastV(ranking="none"),
        lambda: la.PyramidDrop(ratio=0),
        lambda: la.PyramidDrop(stages=0),
        lambda: la.PyramidDrop(steps=(4, 2)),
        lambda: la.PyramidDrop(stages=9).layers(8, 1),
        lambda: la.PyramidDrop(positions="renumber").layers(8, 1),
        lambda: la.SparseVLM({1: 0.5, 2: 0.7}).layers(4, 1),
        lambda: la.SparseVLM([1, 2]),
        lambda: la.SparseVLM({1: 0.5}, recycle=1.5),
        lambda: la.SparseVLM({1: 0.5}, groups=0),
        lambda: la.SparseVLM({1: 0.5}, scale=0),
        lambda: la.DART(pivots=0),
        lambda: la.DART(keep=1.2),
        lambda: la.DART(keep=0.0),
        lambda: la.DART(rule="nearest"),
        lambda: la.DART(layer=0, rule="nearest", text_pivots=0).layers(4, 1),
        lambda: la.DivPrune(0),
        lambda: la.DivPrune(0.5, layer=1).layers(4, 2),
        lambda: la.CDPruner(1.5),
        lambda: la.CDPruner(0.0),
        lambda: la.VisionZip(0.5, dominant=1.5),
        lambda: la.VisionZip(0),
        lambda: la.Downsample(0),
        lambda: la.Downsample(1.5),
        lambda: la.FastV(layer=0).layers(4, 1),
        lambda: la.KeepSchedule([0.5, 0.5, 0.5, 0.5], ranking="last-token").layers(4, 1),
        lambda: la.KeepSchedule([0.5, 0.4, 0.4, 0.4], ranking="uniform").layers(4, 3),
        lambda: la.RandomKeep(-0.5),
        lambda: la.UniformKeep(0.5, layer=4).layers(4, 1),
        lambda: la.FitPrune([1.0, 0.2, 0.4, 0.1]),
        lambda: la.VTW(4.0),
        lambda: la.VTW(0).layers(4, 1),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    with pytest.raises(SettingsError):
        make()


SHARES = {
    "DART": lambda keep: la.DART(layer=0, keep=keep, rule="nearest"),
    "DivPrune": la.DivPrune,
    "CDPruner": la.CDPruner,
    "VisionZip": la.VisionZip,
    "RandomKeep": lambda keep: la.RandomKeep(keep, layer=0),
    "UniformKeep": lambda keep: la.UniformKeep(keep, layer=0),
    "KeepSchedule": lambda keep: la.KeepSchedule([keep] * 4, ranking="uniform"),
}
"""Every policy before the decoder that is told a share."""
INSIDE = {
    "UniformKeep inside": la.UniformKeep,
    "DART inside": lambda keep: la.DART(layer=1, keep=keep),
    "Twig": lambda keep: la.Twig(start=1, depth=1, keep=keep),
    "AutoPrune": lambda keep: la.AutoPrune(budget=keep, layer=1),
}
"""And of those inside it."""


@pytest.mark.parametrize("keep", [-0.5, -1, 1.5, 2.0, float("nan"), True, "0.5", None])
@pytest.mark.parametrize("name", [*SHARES, *INSIDE])
def test_a_share_out_of_range_is_refused_with_its_value_and_the_cure(name, keep):
    with pytest.raises(SettingsError, match=r"(?i)give a (count|share)") as refused:
        (SHARES | INSIDE)[name](keep)
    assert f"keeps {keep!r}" in str(refused.value)


@pytest.mark.parametrize("name", [*SHARES, *INSIDE])
@pytest.mark.parametrize("keep", [0, 0.0])
def test_methods_of_one_share_cannot_keep_nothing(name, keep):
    with pytest.raises(SettingsError, match=rf"keep {keep!r} .* Give a share .*la\.ExitAt"):
        (SHARES | INSIDE)[name](keep)


def test_schedules_may_end_at_nothing_but_not_begin_with_it():
    assert la.KeepSchedule.from_steps({1: 0.5, 3: 0}, 4).keep == (1.0, 0.5, 0.5, 0)
    for never in (lambda: la.KeepSchedule([0, 0]), lambda: la.KeepSchedule.from_steps({0: 0.0}, 4),
                  lambda: la.FitPrune([0.0, 0.0])):  # fmt: skip
        with pytest.raises(SettingsError, match=r"keep 0(\.0)? from the start.*la\.ExitAt\(0\)"):
            never()
    with pytest.raises(SettingsError, match=r"not 1.0\. la\.ExitAt"):
        la.FastV(ratio=1.0)


@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_downsampling_says_which_factors_it_takes(factor):
    with pytest.raises(SettingsError, match=rf"whole number from 1 on \(1 keeps all\), not {factor!r}"):
        la.Downsample(factor)


def test_shortv_freezes_the_least_divergent_layers_and_knows_the_published_ones():
    assert least_divergent({0: 0.2, 1: 0.01, 2: 0.5, 3: 0.01}, 3) == (3, 1, 0)
    assert la.ShortV.published("llava-1.5-7b").frozen == (0, 2, 3, 12, *range(17, 32))
    assert la.ShortV.published("llava-next-13b", 2).frozen == (32, 39)
    assert [len(order) for order in PUBLISHED.values()] == [19, 24, 19, 24]  # about 60 % of 32 and of 40
    for wrong, match in ((lambda: la.ShortV([]), "each once"), (lambda: la.ShortV([1, 1]), "each once"),
                         (lambda: la.ShortV.published("llava"), "llava-1.5-7b"),
                         (lambda: la.ShortV.published("llava-1.5-7b", 20), "1 to 19"),
                         (lambda: least_divergent({0: 1.0}, 2), "1 to 1")):  # fmt: skip
        with pytest.raises(SettingsError, match=match):
            wrong()


def test_vtw_is_a_fixed_exit():
    model = tiny("llava")
    outs = []
    for policy in (la.VTW(2), la.ExitAt(2)):
        with torch.no_grad(), la.attach(model.model, policy):
            outs.append(model.model(**model.inputs("left_padded")).logits)
    assert torch.equal(*outs)


def test_withdrawal_layer_is_the_first_below_the_threshold():
    assert withdrawal_layer({8: 0.5, 12: 0.004, 10: 0.001, 14: 0.002}, 0.003) == 10
    assert withdrawal_layer({8: 0.5, 12: 0.4}, 0.003) is None
    with pytest.raises(SettingsError):
        withdrawal_layer({}, 0.003)
    with pytest.raises(SettingsError):
        withdrawal_layer({3: 0.1}, 0)


class TestFitRecipe:
    ATTENTION = torch.tensor(
        [[4.0, 3, 2, 1], [9, 1, 0, 0], [1, 1, 1, 1], [5, 5, 0, 0], [10, 0, 0, 0], [0, 0, 0, 8]]
    )  # layers 2 and later decide

    def slow(self, tolerance, first=2):
        """For one tolerance, by trying every number of tokens."""
        shares = []
        for layer, row in enumerate(self.ATTENTION.tolist()):
            best = sorted(row, reverse=True)
            enough = [n for n in range(5) if sum(best[:n]) >= (1 - tolerance) * sum(best) - 1e-12]
            shares.append(1.0 if layer < first else min(enough) / 4)
        return tuple(max(shares[k:]) for k in range(len(shares)))

    @pytest.mark.parametrize("budget", [0.4, 0.5, 0.6, 0.75, 0.8, 0.9, 1.0])
    def test_is_the_smallest_tolerance_that_meets_the_budget(self, budget):
        found = fit_recipe(self.ATTENTION, budget, first_prunable=2)
        candidates = [self.slow(t / 1000) for t in range(1001)]
        best = next(c for c in candidates if sum(c) / 6 <= budget)
        assert found == best
        la.FitPrune(found)  # never grows
        assert sum(found) / 6 <= budget

    def test_its_recipe_runs(self):
        recipe = fit_recipe(self.ATTENTION[:4], 0.6)
        model = tiny("llava")
        with torch.no_grad(), la.attach(model.model, la.FitPrune(recipe)) as run:
            model.model(**model.inputs())
        assert [n for (n,) in run.trace.visual_tokens] == [round(16 * share) for share in recipe]

    @pytest.mark.parametrize(
        ("attention", "budget"),
        [(torch.ones(4), 0.5), (-torch.ones(4, 3), 0.5), (torch.ones(4, 3), 0.2), (torch.ones(4, 3), 1.1)],
    )
    def test_refuses(self, attention, budget):
        with pytest.raises(SettingsError):
            fit_recipe(attention, budget)


def test_random_and_uniform_at_another_policys_schedule():
    model = tiny("llava", num_layers=8)
    theirs = la.PyramidDrop()
    costs = []
    for policy in (theirs, *(la.KeepSchedule(theirs.entries(8), ranking=name) for name in ("random", "uniform"))):
        with torch.no_grad(), la.attach(model.model, policy) as run:
            model.model(**model.inputs("left_padded"))
        costs.append(run.trace.cost())
    assert costs[0] == costs[1] == costs[2]


def test_names_are_public_and_lazy():
    assert set(la.policies()) >= METHODS
    for name in ("KeepSchedule", "FastV", "VTW", "PyramidDrop", "FitPrune", "SparseVLM", "DART", "DivPrune"):
        assert getattr(la, name).name in METHODS
