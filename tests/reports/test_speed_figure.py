"""The plot of `lookaway bench` holds every variant that did more or less than the full model."""

import pytest
from matplotlib.figure import Figure

from lookaway.reports.collect import ReportData
from lookaway.reports.figures import policy


def timing(variant, implied, speedup, flops):
    return {"variant": variant, "part": "decoder", "implied": implied, "implied_flops": flops, "speedup": speedup,
            "speedup_quartiles": [0.95 * speedup, 1.05 * speedup]}  # fmt: skip


@pytest.mark.parametrize("slowest", [0.2, 0.59, 1.1])
def test_rows_slower_than_the_full_model_are_inside_the_axes(slowest, monkeypatch):
    drawn = Figure()
    monkeypatch.setattr(policy, "draw_svg", lambda draw, words: draw(drawn))
    rows = [timing("fast", 1.7, 1.3, 2.0), timing("slow", 0.85, slowest, 0.8), timing("idle", 1.0, 0.99, 1.0)]
    policy.speed(ReportData(timings=rows))
    (axes,) = drawn.axes
    points = {text.get_text(): text.xy for text in axes.texts}
    assert points == {"fast": (1.7, 1.3), "slow": (0.85, slowest)}  # idle processes what the full model does
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for x, y in points.values():
        assert left < x < right
        assert bottom < 0.95 * y < 1.05 * y < top
