"""What fit tries where a vision tower's attention is not known: everything that does not read it."""

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
