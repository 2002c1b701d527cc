"""`lookaway bench` with several policies: all in one table, second looks with set numbers of rows that look again."""

import pytest

import lookaway as la
from lookaway.cli.bench import names_of
from lookaway.core.record import read_records
from lookaway.evaluation.forced_looks import ForcedLook, expected_seconds, looks_timed


def test_several_policies_take_turns_and_each_has_its_rows(call, model_folder, data_file, tmp_path):
    first = la.ExitAt(2).save_pretrained(tmp_path / "exit")
    second = la.SecondLook(la.ExitAt(2), la.ExitAt(3), 0.5).save_pretrained(tmp_path / "look")
    arguments = ("bench", "--model", model_folder, "--data", data_file, "--repeats", 1, "--new-tokens", 2, "--exits", 1,
                 "--batch-size", 2, "--out", tmp_path / "out")  # fmt: skip
    status, printed, error = call(*arguments, "--policy", first, "--policy", second)
    assert status == 0, error
    assert "look, 1" in printed
    rows = [record for record in read_records(tmp_path / "out" / "records.jsonl") if record["kind"] == "timing"]
    looks = [f"look, {n} of 2 again" for n in (0, 1, 2)]
    assert {row["variant"] for row in rows} == {"exit at 1", "idle", "exit", "look", *looks}
    flops = {row["variant"]: row["implied_flops"] for row in rows if row["part"] == "decoder"}
    assert flops[looks[0]] > flops[looks[1]] > flops[looks[2]]
    assert flops[looks[0]] == pytest.approx(flops["exit"])
    status, _, error = call(*arguments, "--policy", first, "--policy", first)
    assert status == 1
    assert "given twice" in error


def test_a_batch_of_a_second_look_waits_for_the_rows_that_look_again():
    assert looks_timed(1) == (0, 1)
    assert expected_seconds({0: 1.0, 1: 3.0}, 0.25, 1) == pytest.approx(1.5)
    # two rows: none looks again in 1/4 of the batches, one in 1/2, both in 1/4
    assert expected_seconds({0: 1.0, 1: 2.0, 2: 4.0}, 0.5, 2) == pytest.approx(0.25 + 1.0 + 1.0)
    assert expected_seconds({0: 1.0, 1: 2.0, 8: 2.0}, 0.1, 8) == pytest.approx(1 + (1 - 0.9**8))


def test_forced_looks_are_of_the_policy_that_they_are_made_of():
    policy = la.SecondLook(la.ExitAt(2), la.ExitAt(3), 0.7, "margin")
    forced = ForcedLook.of(policy, 1)
    assert (forced.first, forced.then, forced.threshold, forced.confidence) == (
        policy.first, policy.then, 0.7, "margin",
    )  # fmt: skip


def test_policies_are_called_by_the_end_of_their_paths_where_that_tells_them_apart():
    assert names_of(["out/a"]) == ["policy"]
    assert names_of(["out/a", "out/b", "x/a,x/b"]) == ["a", "b", "x/a,x/b"]
    assert names_of(["one/policy", "two/policy"]) == ["one/policy", "two/policy"]
