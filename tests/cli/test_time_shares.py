"""Shares of the time: exclusive times by hand, and a profiled run leaves everything as it was."""

import pytest

import lookaway as la
from lookaway.core.record import read_records
from lookaway.engine.attachment import Attachment
from lookaway.engine.prefill import decoder_call, state
from lookaway.evaluation.time_shares import RANGES, exclusive


def test_a_range_does_not_count_what_ranges_inside_it_took():
    spans = [("gates", 3, 5), ("rest", 0, 20), ("hooks", 2, 10), ("hooks", 6, 8), ("hooks", 12, 13), ("gates", 8, 9)]
    assert exclusive(spans) == {"rest": 11, "hooks": 6, "gates": 3}


def test_bench_tells_where_the_time_went_and_leaves_nothing_behind(call, model_folder, data_file, tmp_path):
    hook, gather, decide = Attachment._before_layer, decoder_call.gather_rows, la.ExitAt.decide
    policy = la.ExitAt(2).save_pretrained(tmp_path / "exit")
    status, printed, error = call(
        "bench", "--model", model_folder, "--data", data_file, "--repeats", 1, "--new-tokens", 1, "--exits", 1,
        "--policy", policy, "--profile", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, error
    assert "share of the time" in printed
    found = [record for record in read_records(tmp_path / "out" / "records.jsonl") if record["kind"] == "time shares"]
    assert [record["variant"] for record in found] == ["exit at 1", "idle", "policy"]
    for record in found:
        assert set(record["shares"]) == set(RANGES)
        assert sum(record["shares"].values()) == pytest.approx(1)
        assert all(record["shares"][kind] > 0 for kind in ("attaching", "hooks", "policy", "vision tower", "rest"))
        assert (record["shares"]["gathers"] > 0) == (record["variant"] != "idle")
    assert Attachment._before_layer is hook
    assert decoder_call.gather_rows is state.gather_rows is gather
    assert la.ExitAt.decide is decide
