"""Folders that commands name and take over."""

import pytest

from lookaway.cli.calibrate import default_out


@pytest.mark.parametrize(("given", "wanted"), [
    ("gates", "gates-calibrated"), ("gates/", "gates-calibrated"), ("someone/gates", "gates-calibrated"),
    ("gates/.", "gates-calibrated"), ("gates/..", "home-calibrated"), (".", "home-calibrated"),
])  # fmt: skip
def test_calibrated_gates_lie_beside_the_given_ones(given, wanted, tmp_path, monkeypatch):
    (tmp_path / "home" / "gates").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home")
    assert default_out(given).name == wanted
