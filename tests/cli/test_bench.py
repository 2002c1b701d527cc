"""`lookaway bench` with several policies: all in one table, second looks with set numbers of rows that look again."""

import os
import signal

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
    assert "best case" in error
    assert "timing, rounds: 6 of 6" in error  # a round of warm-up and one that counts, of each of three parts
    rows = [record for record in read_records(tmp_path / "out" / "records.jsonl") if record["kind"] == "timing"]
    looks = [f"look, {n} of 2 again" for n in (0, 1, 2)]
    assert {row["variant"] for row in rows} == {"exit at 1", "idle", "exit", "look", *looks}
    assert {row["variant"] for row in rows if row["part"] == "first token"} >= set(looks)  # of both kinds of rows
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


def test_a_published_shape_is_timed_without_a_model_or_data(call, tmp_path):
    status, printed, error = call(
        "bench", "--shape", "llava-1.5-7b", "--scale", 0.01, "--text-tokens", 4, "--repeats", 1, "--exits", 2,
        "--batch-sizes", 1, "--batch-sizes", 2, "--new-tokens", 1, "--new-tokens", 3,
        "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, error
    assert "batch of 2" in printed
    records = list(read_records(tmp_path / "records.jsonl"))
    assert records[0]["model"] == "llava-1.5-7b at scale 0.01"
    assert [record["kind"] for record in records].count("machine") == 2 * 3
    rows = [record for record in records if record["kind"] == "timing"]
    variants = ("exit at 2", "idle", "50% from layer 2", "25% before the decoder")
    parts = (("decoder", 1), ("first token", 1), ("decode", 3))
    assert [(row["batch_size"], row["part"], row["new_tokens"], row["variant"]) for row in rows] == [
        (size, *part, variant) for size in (1, 2) for part in parts for variant in variants
    ]
    assert [row["visual_tokens"] for row in rows[:4]] == [288, 576, 432, 144]
    assert rows[0]["kv_bytes"] * 2 == rows[12]["kv_bytes"] < rows[1]["kv_bytes"] * 2
    status, _, error = call("report", tmp_path)
    assert status == 0, error
    part = (tmp_path / "report.html").read_text(encoding="utf-8").split("<h2>Measured speed</h2>")[1].split("<h2>")[0]
    assert "Decode, 3 tokens, batch of 2" in part
    tables = part.split("</table>")[:-1]
    assert len(tables) == 6
    for table in tables:
        assert table.count("<td>") == table.count("<th ") * 4
    assert "implied" in tables[0]
    assert ">implied" not in tables[1]  # of the decoder alone


@pytest.mark.parametrize("parts", [0, 1])
def test_bench_that_is_told_to_end_prints_and_keeps_what_it_has_timed(call, tmp_path, monkeypatch, parts):
    from lookaway.evaluation import speed

    timed, measure = [], speed.measure

    def ends(*arguments, **options):
        if len(timed) == parts:
            os.kill(os.getpid(), signal.SIGTERM)
        timed.append(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(speed, "measure", ends)
    before = signal.getsignal(signal.SIGTERM)
    status, printed, error = call(
        "bench", "--shape", "llava-1.5-7b", "--scale", 0.01, "--text-tokens", 4, "--repeats", 1, "--exits", 2,
        "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert status == 1
    assert f"{parts} of 3 parts" in error
    assert ("exit at 2" in printed) == bool(parts)
    kept = [record["part"] for record in read_records(tmp_path / "records.jsonl") if record["kind"] == "timing"]
    assert kept == ["decoder"] * 4 * parts
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--shape", "lava-1.5-7b"), "Did you mean llava-1.5-7b"), (("--scale", 0.5), "give --shape, too"),
     (("--shape", "smolvlm-2b", "--batch-sizes", 0), "--batch-sizes must be at least 1, not 0"),
     (("--draft", 2, "--batch-sizes", 8), "A batch of 8 rows cannot be drafted"),
     (("--draft", 2, "--batch-size", 3), "A batch of 3 rows cannot be drafted"),
     (("--draft", 2, "--new-tokens", 2), "needs --new-tokens of 3 or more, not 2")],
)  # fmt: skip
def test_bench_refuses_by_name_what_it_cannot_time(call, flags, words):
    status, _, error = call("bench", *flags, "--device", "cpu")
    assert status == 1
    assert words in error


def test_drafts_take_turns_with_all_else(call, model_folder, data_file, tmp_path):
    """Without a policy and with each; how many guesses were accepted stands beside, in the page too."""
    twig = la.Twig(start=1, depth=3).save_pretrained(tmp_path / "twig")  # the rest of the model: right without a policy
    exit_at = la.ExitAt(2).save_pretrained(tmp_path / "exit")
    arguments = ("bench", "--model", model_folder, "--data", data_file, "--repeats", 1, "--exits", 1, "--device", "cpu")
    status, printed, error = call(
        *arguments, "--policy", exit_at, "--draft", 2, "--draft", twig, "--new-tokens", 1, "--new-tokens", 6,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, error
    assert "accepted" in printed
    records = list(read_records(tmp_path / "out" / "records.jsonl"))
    rows = {(row["variant"], row["part"]): row for row in records if row["kind"] == "timing"}
    names = {f"{under}{by}" for under in ("", "policy, ") for by in ("draft 2", "draft twig")}
    assert {name for name, _ in rows} == {"exit at 1", "idle", "policy", *names}
    assert {part for name, part in rows if name in names} == {"decode"}
    for name in names:
        row = rows[name, "decode"]
        assert row["same_answer"]
        assert row["acceptance"] == row["accepted"] / row["drafted"]
        assert row["visual_tokens"] == (8 if name.startswith("policy") else 16)  # of 4 layers
    assert rows["draft twig", "decode"]["acceptance"] == 1
    for row in (row for (_, part), row in rows.items() if part == "decode"):
        assert row["tokens_per_second"] == pytest.approx(6 / row["seconds"])
        assert row["baseline_tokens_per_second"] == pytest.approx(6 / row["baseline_seconds"])
        assert (row["draft"] is None) == (row["variant"] not in names) == (row["limit"] is not None)
    status, _, error = call("report", tmp_path / "out")
    assert status == 0, error
    part = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").split("<h2>Measured speed</h2>")[1]
    assert "guesses accepted" in part
    drafted = rows["draft twig", "decode"]["drafted"]
    assert f"{drafted} of {drafted} (100 %)" in part
    for draft, words in ((4, "does not fit a decoder of 4"), (exit_at, "no twig that could guess"), (0, "from 1 on")):
        status, _, error = call(*arguments, "--draft", draft, "--out", tmp_path / "other")
        assert status == 1
        assert words in error
    status, _, error = call(*arguments, "--draft", 2, "--draft", 2)
    assert (status, "The draft 2 is given twice." in error) == (1, True)


def test_an_answer_that_a_draft_changed_is_said(call, model_folder, data_file, tmp_path, monkeypatch):
    from lookaway.evaluation import drafted_speed

    monkeypatch.setattr(drafted_speed.torch, "equal", lambda one, other: False)
    status, _, error = call("bench", "--model", model_folder, "--data", data_file, "--repeats", 1, "--exits", 1,
                            "--device", "cpu", "--draft", 2, "--new-tokens", 3, "--out", tmp_path)  # fmt: skip
    assert status == 0, error
    assert "note: draft 2, 3 tokens: the drafted answer is not the one without a draft" in error
