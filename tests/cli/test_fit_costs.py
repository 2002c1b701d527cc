"""`lookaway fit` in full by another cost than FLOPs: cache entries as caches hold them, a speed-up that is reached."""

import pytest
import torch
from fit_cases import NEW, arguments, live, record_of, samples_of

import lookaway as la
from lookaway.models.encoding import encode
from lookaway.reports.fit_tables import found_points
from lookaway.search.fit import reach, seconds
from lookaway.search.fit.sample_runs import SampleRuns
from lookaway.search.fit.seconds import Seconds

FEW = ("--methods", "exit", "--methods", "reduction", "--methods", "second-look", "--shares", 0.2, "--shares", 0.5,
       "--thresholds", 0.1)  # fmt: skip


def cached(loaded, sample, policy):
    """Positions that the cache really holds after prefill, over all layers."""
    model, processor = loaded
    with torch.no_grad(), la.attach(model, policy):
        cache = model(**encode(processor, [sample], model.device).inputs, use_cache=True).past_key_values
    return sum(layer.keys.shape[2] for layer in cache.layers)


def test_cache_entries_are_those_of_live_caches(call, model_folder, answered, loaded, tmp_path):
    status, _, error = call(*arguments(model_folder, answered, tmp_path, *FEW, "--halvings", 0, "--cost", "kv"))
    assert status == 0, error
    found = record_of(tmp_path)
    assert found["unit"] == "kv"
    samples = samples_of(answered, "train")
    whole = sum(cached(loaded, sample, la.KeepAll()) for sample in samples)
    exits = {row["name"]: row for row in found["tried"] if row["method"] == "exit"}
    assert len(exits) > 1
    for name, row in exits.items():
        policy = la.ExitAt(int(name.rpartition("/")[2]))
        assert row["share"] == pytest.approx(sum(cached(loaded, s, policy) for s in samples) / whole), name
    # the certified policy, on the samples that certified it
    policy, samples = la.load(tmp_path / "policy"), samples_of(answered, "calibration")
    kept = sum(cached(loaded, s, policy) for s in samples) / sum(cached(loaded, s, la.KeepAll()) for s in samples)
    assert found["certificate"]["share"] == pytest.approx(kept)
    changed = sum(live(loaded, s, policy, NEW + 1)[1] != live(loaded, s, la.KeepAll(), NEW + 1)[1] for s in samples)
    assert found["certificate"]["changed"] == changed


def test_a_speed_up_that_is_reached_ends_well(call, model_folder, answered, tmp_path, monkeypatch):
    def clock(model, processor, samples, policies, **how):
        return {name: Seconds(1.0, 1.5, 1.5, (1.4, 1.6), 2, 2, 4) for name in policies}

    monkeypatch.setattr(seconds, "measure_seconds", clock)  # a busy machine must not decide
    status, printed, error = call(*arguments(model_folder, answered, tmp_path, *FEW, "--speedup", 1.2))
    assert status == 0, error
    found = record_of(tmp_path)
    assert found["unit"] == "seconds"
    assert found["confirmed"]["speedup"] == 1.5
    assert "1.50 times as fast as the full model" in " ".join(printed.split())
    la.load(tmp_path / "policy")


def test_where_every_policy_is_slower_than_the_full_model_that_is_the_reason_given(
    call, model_folder, answered, tmp_path, monkeypatch
):
    def clock(model, processor, samples, policies, **how):
        return {name: Seconds(2.0, 1.0, 0.5, (0.4, 0.6), 2, 2, 4) for name in policies}

    monkeypatch.setattr(seconds, "measure_seconds", clock)
    status, _, error = call(*arguments(model_folder, answered, tmp_path, *FEW, "--cost", "seconds"))
    assert status == 1
    assert "No policy that was timed is as fast as the full model" in " ".join(error.split())
    assert "each lost more" not in error
    # the record and the page say the same, and draw on the seconds axis what was timed alone
    found = record_of(tmp_path)
    assert found["why"] in " ".join(error.split())
    assert "is 0.50 times as fast" in found["why"]
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert found["why"] in page.replace("&#39;", "'")
    assert len(found_points(found)) == len(found["timed"]) < len(found["tried"]) + len(found["second_looks"])
    assert {point.cost for point in found_points(found)} == {2.0}
    assert found["reach"] is None


def test_trials_are_good_for_another_question_and_give_what_a_fit_of_its_own_gives(
    call, model_folder, answered, tmp_path, monkeypatch
):
    def clock(model, processor, samples, policies, *, batch_size, **how):
        timed.append(batch_size)
        return {name: Seconds(1.0, 1.5, 1.5, (1.4, 1.6), batch_size, 2, 4) for name in policies}

    def counted(self, policy):
        ran.append(len(self.full))
        return original(self, policy)

    timed, ran, original = [], [], SampleRuns.outcomes
    monkeypatch.setattr(seconds, "measure_seconds", clock)
    monkeypatch.setattr(reach, "measure_reach", lambda *given: reach.Reach(0.25, 0.4, "all leave", 2.5))
    monkeypatch.setattr(SampleRuns, "outcomes", counted)
    whole = (*FEW, "--halvings", 0, "--held-out", 0)
    command = arguments(model_folder, answered, tmp_path / "fit", *whole)
    assert call(*command, "--speedup", 2)[0] == 1  # certified, but not twice as fast
    assert timed == [8, 8]
    searched, certified = (len(samples_of(answered, split)) for split in ("train", "calibration"))
    assert searched in ran
    assert searched != certified
    ran.clear()
    for number, more in enumerate([
        ("--speedup", 1.2), ("--speedup", 1.2, "--batch-size", 4), (), ("--cost", "kv"), ("--epsilon", 0.5),
        ("--speedup", 1.2, "--answer-tokens", 2),
    ], 1):  # fmt: skip
        status, _, error = call(*command, *more)
        assert status in (0, 1), error
        assert "gone on from" in error
        assert (tmp_path / "fit" / f"earlier-{number}" / "records.jsonl").exists()
        found = record_of(tmp_path / "fit")
        assert searched not in ran, more  # another order may test further policies on the other split alone
        own = tmp_path / f"own-{number}"
        call(*arguments(model_folder, answered, own, *whole, *more))
        for part in ("chosen", "certificate", "tried", "order", "tested", "why"):
            assert found[part] == record_of(own)[part], (more, part)
        assert (own / "policy").exists() == (tmp_path / "fit" / "policy").exists()
        ran.clear()
    assert timed.count(4) == 4  # of each folder: on the one split and on the other
    assert call(*command, "--shares", 0.3)[0] == 1  # another space is another fit


def test_a_failed_speed_up_says_on_its_page_what_could_be_reached(call, model_folder, answered, tmp_path, monkeypatch):
    def clock(model, processor, samples, policies, **how):
        return {name: Seconds(2.0, 1.0, 0.5, (0.4, 0.6), 2, 2, 4) for name in policies}

    monkeypatch.setattr(seconds, "measure_seconds", clock)
    monkeypatch.setattr(reach, "measure_reach", lambda *given: reach.Reach(0.25, 0.4, "all leave", 1.3))
    status, printed, error = call(*arguments(model_folder, answered, tmp_path, *FEW, "--speedup", 2))
    assert status == 1
    found = record_of(tmp_path)
    assert found["reach"]["vision_tower"] == 0.4
    assert found["reach"]["words"] in " ".join(printed.split())
    page = " ".join((tmp_path / "report.html").read_text().split()).replace("&#39;", "'")
    assert found["reach"]["words"] in page
    assert found["why"] in page
    assert found["why"] in " ".join(error.split())
    assert "(2 times was asked for)" in found["why"]


def test_the_batches_that_are_timed_are_counted_beforehand(loaded, answered):
    model, processor = loaded
    policies = {"exit": (la.ExitAt(1), 0.0), "look": (la.SecondLook(la.ExitAt(1), la.KeepAll(), 0.5), 0.5)}
    done = []
    seconds.measure_seconds(model, processor, samples_of(answered, "train"), policies, batch_size=2, repeats=1,
                            progress=done.append)  # fmt: skip
    assert sum(done) == seconds.runs_timed(policies, 2, 1)
