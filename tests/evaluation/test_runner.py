"""Paired runs on a tiny model: one result a sample, resumable, and summaries that add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import RecordWriter, Sample, read_records
from lookaway.evaluation.runner import evaluate_policy, results_from_records
from lookaway.evaluation.speed import measure_speed, remaining_work
from lookaway.evaluation.summary import histogram, summarise
from lookaway.models.encoding import encode

DEPTH = 4


@pytest.fixture(scope="module")
def model():
    return tiny("llava", DEPTH).model


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    found = []
    for number in range(6):
        images = (Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)),) if number < 5 else ()
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": "what is it?" + "?" * number}]
        found.append(
            Sample(str(number), [{"role": "user", "content": content}], images, "a", ("odd", "even")[number % 2])
        )
    return found


def run(model, samples, policy, **kwargs):
    return evaluate_policy(model, tiny_processor(), policy, samples, batch_size=2, max_new_tokens=4, **kwargs)


def test_where_the_model_knows_nothing_there_is_no_retention(model, samples):
    """A ratio of nothing: unknown, so that records stay JSON."""
    row = summarise([replace(r, right_without=False, right_with=True) for r in run(model, samples[:2], la.KeepAll())])
    assert row[0].retention is None
    assert row[0].accuracy_without == 0


def test_keeping_everything_changes_nothing(model, samples):
    found = run(model, samples, la.KeepAll())
    assert [r.id for r in found] == [s.id for s in samples]
    assert all(r.agree and r.flops == r.full_flops and r.exit_layer is None for r in found)
    row = summarise(found)[0]
    assert (row.agreement.value, row.never_exits, row.mean_exit, row.flops_share) == (1.0, 1.0, DEPTH, 1.0)


def test_a_fixed_exit_is_seen_in_every_number(model, samples):
    found = run(model, samples, la.ExitAt(1))
    assert [r.exit_layer for r in found] == [1] * 5 + [None]
    assert [r.visual_tokens for r in found] == [[16, 0, 0, 0]] * 5 + [[0] * 4]
    assert all(r.flops < r.full_flops and r.kv_bytes < r.full_kv_bytes for r in found[:5])
    assert found[5].flops == found[5].full_flops  # nothing to look at, nothing to save
    whole, even, odd = summarise(found)
    assert (whole.family, even.family, odd.family, whole.samples, odd.samples) == ("all", "even", "odd", 6, 3)
    assert (whole.mean_exit, whole.never_exits) == (1.0, 0.0)
    assert histogram(found) == {1: 5}


def test_an_interrupted_run_goes_on_where_it_was(model, samples, tmp_path):
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        first = run(model, samples[:3], la.ExitAt(2), writer=writer)
    done = results_from_records(read_records(tmp_path / "r.jsonl"))
    assert done == first
    ran = []
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        whole = run(model, samples, la.ExitAt(2), writer=writer, done=done, progress=ran.append)
    assert sum(ran) == 3
    assert whole == run(model, samples, la.ExitAt(2))
    assert results_from_records(read_records(tmp_path / "r.jsonl")) == whole


def test_without_answers_there_is_agreement_but_no_accuracy(model, samples):

    row = summarise(run(model, [replace(s, answer=None) for s in samples[:2]], la.ExitAt(1)))[0]
    assert (row.accuracy_with, row.retention, row.p_value) == (None, None, None)
    assert 0 <= row.agreement.value <= 1


def test_the_remaining_work_is_the_mean_over_layers_of_the_decoders_time_at_their_length():
    seconds = {10: (1.0, 2.0), 30: (3.0, 8.0)}  # two rounds
    found = remaining_work([30, 30, 20, 10], seconds)  # 20 lies half way
    assert found == pytest.approx([(3 + 3 + 2 + 1) / 4, (8 + 8 + 5 + 2) / 4])


def test_speed_of_every_variant_and_part(model, samples, tmp_path):
    rounds, finished = [], []

    def keep(part):
        written = [record for record in read_records(tmp_path / "r.jsonl") if record["kind"] == "timing"]
        assert len(written) == len(part) + sum(map(len, finished))  # what is timed is kept, whatever happens next
        finished.append(part)

    with RecordWriter(tmp_path / "r.jsonl") as writer:
        inputs = encode(tiny_processor(), samples[:1]).inputs
        rows = measure_speed(model, inputs, exits=(1, 2), policies={"policy": la.ExitAt(3)}, new_tokens=(1, 2),
                             repeats=2, warmup=1, writer=writer, progress=rounds.append, finished=keep)  # fmt: skip
    assert [row for part in finished for row in part] == rows
    assert rounds == [1] * 3 * (1 + 2)
    variants = ("exit at 1", "exit at 2", "idle", "policy")
    assert [(r.part, r.variant) for r in rows] == [
        (p, v) for p in ("decoder", "first token", "decode") for v in variants
    ]
    assert [r.exit_layer for r in rows[:4]] == [1, 2, None, 3]
    implied = [r.implied_flops for r in rows[:4]]
    assert implied[0] > implied[1] > implied[3] > implied[2] == 1.0
    assert all(r.implied > 0 and r.efficiency > 0 for r in rows[:4])
    assert all(r.implied is None and r.efficiency is None for r in rows[4:])
    assert [record["kind"] for record in read_records(tmp_path / "r.jsonl")] == (["machine"] + ["timing"] * 4) * 3
    for r in rows:
        with la.attach(model, la.ExitAt(r.exit_layer) if r.exit_layer else la.KeepAll()) as run, torch.no_grad():
            model(**inputs, use_cache=True)
        cost = run.trace.cost()
        assert (r.kv_bytes, r.baseline_kv_bytes) == (cost.kv_bytes, cost.full_kv_bytes)
        assert (r.batch_size, r.new_tokens) == (1, 2 if r.part == "decode" else 1)
        assert 0 < r.limit <= r.baseline_limit
        assert (r.limit == r.baseline_limit) == (r.variant == "idle")
        assert r.peak_bytes is None  # a CPU
        assert r.part == "decode" or r.per_token is None


def test_copies_of_a_picture_under_other_names_are_one(model, samples, tmp_path):
    """Whoever exports a picture a question has as many names as questions, and not as many independent draws."""
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (16, 16), "red" if name != "c.png" else "blue").save(tmp_path / name)
    asked = [
        replace(samples[i], id=name, images=(str(tmp_path / name),), meta={"image_names": (name,)})
        for i, name in enumerate(("a.png", "b.png", "c.png"))
    ]
    first, second, third = run(model, asked, la.ExitAt(1))
    assert first.image == second.image != third.image
    assert summarise([first, second, third])[0].images == 2
