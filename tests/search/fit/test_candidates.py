"""What fit tries: each policy once, numbered alike by all workers; and what is no space."""

from __future__ import annotations

import pytest

import lookaway as la
from lookaway.core.errors import SettingsError
from lookaway.search.fit.candidates import candidates
from lookaway.search.fit.options import FitOptions


def test_what_reads_an_unknown_attention_is_left_out():
    known = candidates(12, 1, FitOptions())
    unknown = candidates(12, 1, FitOptions(), vision=False)
    left_out = {c.key for c in known} - {c.key for c in unknown}
    assert left_out
    assert left_out == {c.key for c in known if c.policy.needs_vision()}
    assert all("visionzip" in key for key in left_out)


def test_a_policy_of_ones_own_that_reads_it_is_refused():
    own = {"mine": la.VisionZip(0.5)}
    assert any(c.key == "own/mine" for c in candidates(12, 1, FitOptions(), own))
    with pytest.raises(SettingsError, match="policy mine reads the vision tower's attention, which is not known"):
        candidates(12, 1, FitOptions(), own, vision=False)


@pytest.mark.parametrize("name", ["shares", "before_shares", "gates_behind_shares"])
@pytest.mark.parametrize("share", [0, 0.0, 1.0, 1.5, -0.1])
def test_shares_out_of_range_are_refused_before_anything_runs(name, share):
    with pytest.raises(SettingsError, match=rf"above 0 and below 1 .* not {share} \({name}\).*fixed exits"):
        FitOptions(**{name: (0.3, share)})


@pytest.mark.parametrize(
    "name", ["shares", "before_shares", "gates_behind_shares", "rankings", "reduce_before", "thresholds"]
)
def test_an_empty_part_of_the_space_is_refused_by_name(name):
    with pytest.raises(SettingsError, match=f"{name} is empty"):
        FitOptions(**{name: ()})


@pytest.mark.parametrize("threshold", [0, 1.2, float("nan")])
def test_thresholds_out_of_range_are_refused_before_anything_runs(threshold):
    with pytest.raises(SettingsError, match="threshold above 0 and at most 1"):
        FitOptions(thresholds=(0.9, threshold))


def test_a_confidence_that_is_none_is_refused_before_anything_runs():
    with pytest.raises(SettingsError, match="No --confidence 'vibes'; there are probability, margin, entropy"):
        candidates(12, 1, FitOptions(confidence="vibes"))


def test_a_share_that_is_named_twice_is_tried_once_and_shares_that_differ_are_two():
    def keys(shares):
        return [c.key for c in candidates(12, 1, FitOptions(methods=("reduction",), shares=shares))]

    assert keys((0.5, 0.5, 0.2)) == keys((0.5, 0.2))
    assert len(set(keys((0.33333333, 0.33333334)))) == 2
    assert keys((0.05,)) == ["reduction/last-token-2-0.05"]


def test_workers_number_candidates_alike_in_whatever_order_they_name_their_own():
    """A worker may take up a trial that another one began, which is kept by its number."""
    own = {f"p{n}": la.DivPrune(n / 10) for n in (3, 5, 4)}
    found = [candidates(12, 1, FitOptions(), dict(order)) for order in (own.items(), reversed(own.items()))]
    assert [c.key for c in found[0]] == [c.key for c in found[1]]


def test_a_folder_called_like_the_gates_of_a_fit_is_a_candidate_of_ones_own():
    """Whose refusal is an error, and which may be the result whatever --methods says."""
    path = "gates-behind/0.5"
    found = candidates(
        12, 1, FitOptions(methods=("exit",)), {path: la.ExitAt(3)}, behind={"gates-behind/x": la.ExitAt(4)}
    )
    methods = {c.key: c.method for c in found}
    assert methods[f"own/{path}"] == "own"
    assert methods["gates-behind/x"] == "gates-behind"
