"""The leaderboard: what may be compared stands in one table, nothing else does, and the page loads nothing."""

import re

import pytest
from made_up_board import FASTV, numbers, write_board_folders, write_eval, write_fit, write_tasks
from made_up_run import write_made_up_run

import lookaway
from lookaway.cli.report import Options, run
from lookaway.core.errors import DataError
from lookaway.reports.board import collect_board, on_front
from lookaway.reports.pages.board import render_board

VERSION = lookaway.__version__


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return collect_board(write_board_folders(tmp_path_factory.mktemp("board")), VERSION)


def test_rows_of_one_model_and_one_set_of_samples_stand_together(groups):
    found = {(tuple(group.models), tuple(group.data)): [row.method for row in group.rows] for group in groups}
    llava = ("llava-hf/llava-1.5-7b-hf",)
    assert found == {
        (("OpenGVLab/InternVL2-1B",), ("mini",)): ["keep-schedule"],
        ((*llava, "models/llava"), ("mini", "mini (test-seen, held out)")): [
            "keep-schedule", "uniform tokens", "keep-schedule", "uniform tokens", "fastv",
        ],
        (llava, ("gqa",)): ["fastv"],
        (llava, ("pope",)): ["fastv"],
    }  # fmt: skip


@pytest.mark.parametrize("other", [
    {"weights": "other"}, {"questions": "other"}, {"max_new_tokens": 4}, {"conversation": "plain"}, {"scorer": "vqa"},
])  # fmt: skip
def test_equal_names_do_not_make_results_comparable(tmp_path, other):
    first = write_eval(tmp_path / "a", {"gates": numbers(0.2, 0.9, 0.8)})
    second = write_eval(tmp_path / "b", {"gates": numbers(0.3, 0.9, 0.8)}, **other)
    assert [len(group.rows) for group in collect_board([first, second], VERSION)] == [1, 1]


def test_a_row_counts_once_and_the_last_record_of_a_variant_counts(tmp_path):
    folder = write_eval(tmp_path / "a", {"gates": numbers(0.2, 0.9, 0.8)})
    write_eval(folder, {"gates": numbers(0.2, 0.95, 0.8)})  # appended, as a run that went on leaves it
    (group,) = collect_board([folder, f"{folder}/"], VERSION)
    assert [row.numbers["agreement"][0] for row in group.rows] == [0.95]


def test_the_front_is_what_nothing_beats(groups):
    rows = next(group.rows for group in groups if len(group.rows) == 5)
    assert [(row.numbers["flops_share"], row.numbers["agreement"][0], on_front(row, rows)) for row in rows] == [
        (0.2, 0.91, True), (0.2, 0.8, False), (0.3, 0.97, True), (0.3, 0.9, False), (0.55, 0.965, False),
    ]  # fmt: skip


def test_a_full_model_that_scored_differently_is_said(tmp_path):
    first = write_eval(tmp_path / "a", {"gates": numbers(0.2, 0.9, 0.8)})
    second = write_eval(tmp_path / "b", {"gates": numbers(0.3, 0.9, 0.8, without=0.88)})
    assert "did not score the same in all of these runs (88.0 %, 90.0 %)" in render_board(
        collect_board([first, second], VERSION)
    )


def test_where_only_agreement_was_asked_for_no_score_is_shown(tmp_path):
    folder = write_eval(tmp_path / "a", {"gates": numbers(0.2, 0.9, 0.123)}, scorer=None)
    page = render_board(collect_board([folder], VERSION))
    assert "12.3 %" not in page
    assert "no score, answers only compared" in page


def test_the_page_holds_the_numbers_and_fetches_nothing(groups):
    page = render_board(groups)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Visual tokens removed: 8 results" in text
    assert "50 % of the visual tokens stay from layer 2 on (FastV)" in text
    assert "97.0 % (92.0 to 99.0)" in text
    assert "89.0 % (75.0 to 95.0)" in text
    assert "200 questions about 200 different pictures" in text
    assert "scorer: the task&#39;s own, lmms-eval 0.7.3" in text
    assert not re.findall(r"(?:src|href)=|url\(|@import|fetch\(|https?:", page)
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page


def test_names_from_records_stay_text(tmp_path):
    folder = write_eval(tmp_path / "a", {"gates": numbers(0.2, 0.9, 0.8)}, model='<img src=x onerror="x">')
    page = render_board(collect_board([folder], VERSION))
    assert "<img" not in page


def test_what_cannot_stand_on_a_board_is_refused_by_name(tmp_path):
    good = write_fit(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no records"):
        collect_board([good, tmp_path / "empty"], VERSION)
    with pytest.raises(DataError, match="missing holds no records"):
        collect_board([good, tmp_path / "missing"], VERSION)
    old = write_tasks(tmp_path / "old", version="0.0.9")
    with pytest.raises(DataError, match=rf"old/records\.jsonl was written by lookaway 0.0.9, this is {VERSION}"):
        collect_board([good, old], VERSION)
    write_made_up_run(tmp_path / "first" / "records.jsonl")  # as 0.1 wrote them
    lines = (tmp_path / "first" / "records.jsonl").read_text().replace('"lookaway": "0"', f'"lookaway": "{VERSION}"')
    (tmp_path / "first" / "records.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"first/records\.jsonl was written before records named what they depend on"):
        collect_board([tmp_path / "first"], VERSION)
    unfinished = write_eval(tmp_path / "unfinished", {}, policy=FASTV)
    with pytest.raises(DataError, match="unfinished holds records, but no finished result"):
        collect_board([unfinished], VERSION)


def test_the_command_writes_one_file(tmp_path, monkeypatch):
    folders = tuple(write_board_folders(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(Options(folders=folders, board=True)) == {"report": "board.html"}
    assert "5e6f7a" in (tmp_path / "board.html").read_text()
    with pytest.raises(DataError, match="Give --board"):
        run(Options(folders=folders))
    with pytest.raises(DataError, match="No folders"):
        run(Options(board=True))
    with pytest.raises(DataError, match="not of --records"):
        run(Options(folders=folders, records=(tmp_path / "a",), board=True))
