"""What `lookaway fit` says before and during its search: what data can show, and counts of all samples so far."""

from types import SimpleNamespace

import pytest

from lookaway.cli import fit_said
from lookaway.cli.common import plain_console
from lookaway.core.bounds import upper_bound
from lookaway.core.errors import DataError
from lookaway.search.fit import reach
from lookaway.search.fit.guarantee import Guarantee, allowed


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def options(data, **more):
    given = {"metric": "answers", "epsilon": 0.03, "delta": 0.05, "data": str(data), "split": "calibration",
             "limit": 160, "seed": 0}  # fmt: skip
    return SimpleNamespace(**{**given, **more})


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_questions):
    """400 pictures, of which somewhat fewer than 80 certify."""
    return write_questions(tmp_path_factory.mktemp("many"), 400, seed=1)


@pytest.mark.parametrize(("samples", "epsilon", "most"), [(99, 0.03, 0), (154, 0.03, 0), (157, 0.03, 1), (160, 0.1, 9)])
def test_how_many_answers_may_change_is_said(capsys, samples, epsilon, most):
    rule = Guarantee(epsilon, 0.05)
    assert upper_bound(most, samples, 0.05) <= epsilon < upper_bound(most + 1, samples, 0.05)
    assert allowed(rule, samples) == most
    fit_said.say_what_can_be_shown(plain_console(), options("mini", epsilon=epsilon), rule, 160, samples)
    words = "none of these answers may" if not most else f"at most {most} of these {samples} answers may"
    assert f"For epsilon {epsilon:g}, {words} change." in said(capsys)


def test_the_cure_raises_limit_only_where_it_holds_samples_back(many, write_questions, tmp_path):
    def cure(data, used, **more):
        with pytest.raises(DataError) as refused:
            fit_said.say_what_can_be_shown(
                plain_console(), options(data, **more), Guarantee(more.get("epsilon", 0.03), 0.05), 160, used
            )
        return str(refused.value)

    from lookaway.data import load_samples

    images = {split: len(load_samples(str(many), split)) for split in ("calibration", "test", "calibration+test")}
    assert images["calibration"] + images["test"] == images["calibration+test"]
    there = images["calibration"]
    assert f"Raise --limit to 59: the split calibration has {there} images" in cure(many, 24, limit=24, epsilon=0.05)
    assert "Raise --limit to 99, or allow" in cure("mini", 24, limit=24)
    text = cure(many, there)
    assert "Raise --limit" not in text
    assert f"All {there} images of the split calibration are in use: about {(99 - there) * 5} more pictures" in text
    assert f"--split calibration+test --limit 160 ({images['calibration+test']} images)" in text
    few = write_questions(tmp_path, 30, seed=2)
    assert "calibration+test" not in cure(few, 6)  # together they are too few as well
    assert "All 30 images of the split all are in use: add 69 or more to them" in cure(few, 30, split="all")


@pytest.mark.parametrize(("speedup", "words"), [(2.5, "2 times as fast can be reached"), (1.3, "OUT OF REACH")])
def test_whether_a_speed_up_can_be_reached_is_said_with_the_tower_s_share(capsys, monkeypatch, speedup, words):
    found = reach.Reach(0.25, 0.4, "all leave", speedup)
    monkeypatch.setattr(reach, "measure_reach", lambda *given: found)
    given = SimpleNamespace(batch_size=8, answer_tokens=1, seed=0, speedup=2.0)
    fit_said.say_what_can_be_reached(plain_console(), given, None, None, [])
    text = said(capsys)
    assert "A batch of 8 takes 250 ms in full (the first token), about 40% of it in the vision tower" in text
    assert f"(all leave) is {speedup:.2f} times as fast" in text
    assert words in text
    assert ("the same command with --speedup 1.2 or without --speedup goes on" in text) is (speedup < 2)


def test_counts_of_the_search_are_of_all_samples_and_never_twice(call, model_folder, pictures, tmp_path):
    import re

    status, printed, errors = call(
        "fit", "--model", model_folder, "--data", pictures, "--out", tmp_path, "--max-new-tokens", 2, "--epsilon", 0.9,
        "--shares", 0.5, "--shares", 0.9, "--methods", "reduction", "--methods", "second-look", "--held-out", 0,
        "--halvings", 1, "--limit", 48, "--device", "cpu",
    )  # fmt: skip
    assert status == 0, errors
    parts = re.split(r"\d+ policies of one pass on ", " ".join(printed.split()))[1:]
    assert len(parts) == 2
    for part in parts:
        samples = re.match(r"(\d+) samples", part).group(1)
        counts = set(re.findall(r"(?:\d+) of (\d+) answers the same", part))
        assert counts == {samples}
    assert "24 of them new" in parts[1]
    assert all(0 <= int(done) <= int(total) for done, total in re.findall(r": (\d+) of (\d+)", errors))
    assert set(re.findall(r"search split, ([a-z ]+): ", errors)) == {"own answers", "states"}
    best = [float(share) for share in re.findall(r"best so far \(not certified.*?: ([\d.]+)% of", printed)]
    assert all(share < 100 for share in best)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, write_questions):
    return write_questions(tmp_path_factory.mktemp("pictures"), 90, seed=3)
