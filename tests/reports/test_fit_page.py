"""The page of a fit: what it says follows from its records, and nothing is fetched from elsewhere."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_fit import SECOND, TIMED, fit_record, write_made_up_fit
from scipy.stats import binomtest

from lookaway.cli.report import Options, run
from lookaway.core.errors import DataError
from lookaway.reports.collect import collect
from lookaway.reports.fit_tables import beside_rows, certificate_text, found_points, points_unit, same_interval
from lookaway.reports.fit_tables import tested_rows as rows_of_tests
from lookaway.reports.pages.kept_pictures import kept_cards, stages
from lookaway.reports.pages.page import render
from lookaway.reports.policy_words import policy_words


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return collect(write_made_up_fit(tmp_path_factory.mktemp("fit")))


def test_the_page_says_what_the_records_hold(data):
    page = render(data)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert (
        "Keep 10 % of the visual tokens from layer 2 on; where the first answer token&#39;s probability is below 0.93, "
        "run again: keep 50 % of the visual tokens from layer 2 on."
    ) in text
    assert "at most 2.93 % of the answers differ" in text
    assert "160 questions that certified it, of which 1 changed" in text
    assert "160 questions can show no less than 1.85 %" in text
    assert "2.9 ×" in text
    assert "this policy 35.0 % 35.0 % 98 of 100" in text
    assert "FastV as published (its own cost)" in text
    assert page.count('<article class="card">') == 8
    assert "layers 2–29 20 of 196" in text
    assert page.count('class="pass">passes<') == 3
    assert page.count('class="fail">fails<') == 1


def test_nothing_is_fetched_and_no_script_runs(data):
    page = render(data)
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)[^\"]*\"", page)
    assert "<script" not in page
    assert "url(http" not in page


def test_without_a_certificate_the_reason_stands_there(tmp_path):
    data = collect(write_made_up_fit(tmp_path, certified=False))
    page = render(data)
    assert "No policy was certified" in page
    assert "which bounds the loss at 7.29 %" in certificate_text(data)  # records of an older version
    data.fits = [fit_record(False) | {"tested": [], "kind": "fit", "why": "Nothing timed is fast enough."}]
    assert certificate_text(data) == "No policy is certified. Nothing timed is fast enough."
    reach = {"seconds": 0.2, "vision_tower": 0.4, "boldest": "exit", "speedup": 1.3, "words": "2 times is OUT OF REACH"}
    assert "2 times is OUT OF REACH" in render(replace(data, fits=[data.fits[0] | {"reach": reach}]))
    poor = [row | {"changed": 150} for row in data.fits[0]["tried"]]
    data.fits = [data.fits[0] | {"tried": poor, "front": [], "order": [], "second_looks": []}]
    assert "No policy was certified" in render(data)


def test_a_certified_score_is_called_so(data):
    found = data.fits[-1]
    certificate = found["certificate"] | {"scorer": "vqa", "method": "Hoeffding-Bentkus bound"}
    other = replace(data, fits=[found | {"metric": "score", "certificate": certificate}])
    assert "the mean score (vqa) falls by at most 2.93 %" in certificate_text(other)
    assert "Hoeffding-Bentkus" in certificate_text(other)
    page = render(other)
    assert "score kept" in page
    assert "loss of score, with confidence 95 %" in page
    losses = {round(1 - p.kept, 6) for p in found_points(other.fits[-1]) if p.method == "second-look"}
    assert 0.01 in losses


def test_seconds_stand_there_where_they_were_measured(data):
    assert "2.20 × (2.10 to 2.30)" in render(data)
    found = data.fits[-1]
    assert "Measured seconds" not in render(replace(data, fits=[found | {"confirmed": None}]))


def test_generic_prompts_are_named(data):
    other = replace(data, fits=[data.fits[-1] | {"generic_prompts": ["Describe this image in one sentence."]}])
    assert "Describe this image in one sentence." in render(other)
    assert "generic prompts were asked" not in render(data)


def test_what_a_folder_holds_is_drawn(tmp_path):
    write_made_up_fit(tmp_path)
    found = run(Options(folders=(tmp_path,)))
    assert found["report"] == str(tmp_path / "report.html")
    assert "What the policy keeps" in (tmp_path / "report.html").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no records"):
        run(Options(folders=(tmp_path / "empty",)))


@pytest.mark.parametrize(("changed", "samples"), [(0, 160), (1, 160), (7, 20), (20, 20)])
def test_intervals_are_clopper_pearsons(changed, samples):
    exact = binomtest(samples - changed, samples).proportion_ci(0.95, method="exact")
    assert same_interval(changed, samples) == pytest.approx((1 - changed / samples, exact.low, exact.high), abs=1e-9)


def test_every_policy_is_a_point_once():
    found = fit_record()
    points = found_points(found)
    assert len([p for p in points if p.method != "second-look"]) == len(found["tried"])
    assert len([p for p in points if p.method == "second-look"]) == len(found["second_looks"]) + 2
    assert points == sorted(points, key=lambda p: -p.cost)


def test_on_the_axis_of_seconds_is_only_what_was_timed(data):
    found = fit_record() | {"unit": "seconds"}
    assert points_unit(found) == "prefill FLOPs of the decoder, for nothing was timed"
    assert len(found_points(found)) > len(found["tried"])
    timed = [row | {"seconds": TIMED, "share": 1.3} for row in found["tried"][:3]]
    found |= {"timed": timed, "tested": [], "certificate": None}
    assert points_unit(found) == "measured seconds"
    assert [point.cost for point in found_points(found)] == [1.3] * 3
    assert "The 3 policies that were timed, on the search split" in render(replace(data, fits=[found]))


def test_without_held_out_samples_the_page_says_why_and_whose_pictures_it_shows(data):
    why = {"why": "all 83 pictures were seen by the fit.", "pictures_of": "calibration+test"}
    page = render(replace(data, beside={}, no_beside=why))
    assert why["why"] in page
    assert "<code>calibration+test</code>, which certified the policy" in page
    assert "At equal cost, on samples" not in page
    assert "which certified the policy" not in render(data)


def test_the_policy_comes_first_and_the_others_by_what_they_keep(data):
    rows = beside_rows(data)
    assert rows[0][0] == "this policy"
    assert [row[0] for row in rows[1:3]] == ["FastV as published (its own cost)", "uniform tokens"]
    assert [row[-1] for row in rows_of_tests(data)] == ["passes", "passes", "passes", "fails"]


def test_stages_are_stretches_of_layers_with_the_same_tokens():
    found = stages([2, 30, 5, 0, 30], 30)
    assert [(first, last) for first, last, _ in found] == [(0, 1), (2, 4), (5, 29)]
    assert [seen for _, _, seen in found] == [
        [True, True, True, False, True],
        [False, True, True, False, True],
        [False, True, False, False, True],
    ]
    for layer in range(30):
        (seen,) = [seen for first, last, seen in found if first <= layer <= last]
        assert seen == [count > layer for count in [2, 30, 5, 0, 30]]
    assert stages([30, 30], 30) == [(0, 29, [True, True])]
    assert [sum(seen) for _, _, seen in stages([3, 3], 30)] == [2, 0]


def test_what_never_enters_the_decoder_is_shown_whole_first(data):
    row = next(iter(data.kept.values()))
    other = replace(data, kept={"1": row | {"layers": [0] * 150 + [row["num_layers"]] * 46}})
    (card,) = kept_cards(other)
    assert [(stage["words"], stage["count"]) for stage in card["stages"]] == [
        ("before the decoder", "196 of 196"),
        ("layers 0–29", "46 of 196"),
    ]
    assert [stage["words"] for stage in kept_cards(data)[0]["stages"]] == ["layers 0–1", "layers 2–29"]


WORDS = {
    "keep 40 % of the visual tokens before the decoder": {"keep": [0.4] * 4},
    "keep 50 % of the visual tokens from layer 1 on, 25 % from layer 3 on": {"keep": [1.0, 0.5, 0.5, 0.25]},
    "keep 20 of the visual tokens from layer 2 on (chosen by uniform)": {
        "keep": [1.0, 1.0, 20, 20],
        "ranking": "uniform",
    },
    "keep none of the visual tokens from layer 2 on": {"keep": [1.0, 1.0, 0.0, 0.0]},
    "keep all visual tokens": {"keep": [1.0, 1.0]},
}


@pytest.mark.parametrize("words", WORDS)
def test_schedules_in_words(words):
    assert policy_words({"name": "keep-schedule", "config": WORDS[words]}) == words


def test_policies_in_words_are_those_of_their_own_saved_settings():
    import lookaway as la

    def words(policy):
        return policy_words({"name": policy.name, "config": policy.to_config()})

    assert words(la.chain(la.Downsample(2), la.ExitAt(7))) == (
        "each cell of 2 x 2 visual tokens becomes one, before the decoder, then all visual tokens leave before layer 7"
    )
    assert words(la.FastV()) == "50 % of the visual tokens stay from layer 2 on (FastV)"
    assert words(la.KeepAll()) == "keep all visual tokens"
    assert words(la.DivPrune(4)) == "keep 4 of the visual tokens before the decoder (DivPrune)"
    assert words(la.CDPruner(0.05)) == "keep 5 % of the visual tokens before the decoder (CDPruner)"
    renumbered = la.UniformKeep(0.2, layer=2, positions="renumber")
    assert words(renumbered) == (
        "keep 20 % of the visual tokens from layer 2 on (evenly spaced tokens, positions renumber)"
    )
    assert words(la.DART(layer=2, keep=0.1)).endswith("(DART, pivots 4, text_pivots 4, rule each)")
    assert words(la.ShortV([3])) == "ShortV"
    assert "run again" in policy_words(SECOND)
    schedule = la.KeepSchedule.from_steps({2: 0.1}, 30)
    assert words(schedule) == "keep 10 % of the visual tokens from layer 2 on"
    assert np.isclose(schedule.keep[2], 0.1)
