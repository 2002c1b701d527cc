"""`lookaway search --method eas` on a user's own folder and data: a set, its baselines, what `train` and `eval` make of
it."""

import json

import pytest

import lookaway as la
from lookaway.cli.search_eas import Options, run
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.record import read_records

QUICK = ("--limit", "24", "--judged", "8", "--random-sets", "2", "--steps", "6", "--skip", "2", "--turn", "2",
         "--warm", "0.1", "--subsets", "2", "--width", "4", "--batch-size", "2", "--reward-batch", "4")  # fmt: skip


@pytest.fixture
def common(model_folder, data_file):
    return ("--model", model_folder, "--data", data_file, "--split", "all")


def test_a_search_ends_in_a_policy_that_is_judged_trained_on_and_evaluated(common, tmp_path, call):
    out = tmp_path / "skip"
    status, text, err = call("search", "--method", "eas", *common, *QUICK, "--out", out, "--json", tmp_path / "n.json")
    assert status == 0, err
    assert "random 1" in text
    policy, saved = la.load(out), json.loads((out / "search.json").read_text())
    assert len(policy.skipped) == 2
    assert policy.adapters.layers == policy.skipped
    assert json.loads((tmp_path / "n.json").read_text())["skipped"] == saved["skipped"] == list(policy.skipped)
    records = list(read_records(out / "records.jsonl"))
    assert [r["kind"] for r in records] == ["run", *["skip-search"] * 3, "search"]
    assert [r["step"] for r in records[1:-1]] == [2, 4, 6]
    assert saved["skipped"] == records[-2]["best"]
    rows = {row["name"]: row for row in saved["baselines"]}
    assert list(rows) == ["nothing skipped", "searched", "searched, adapters", "ranking", "last layers", "random 0",
                          "random 1"]  # fmt: skip
    assert all(len(row["right"]) == 4 for row in rows.values())
    assert rows["nothing skipped"]["p_full"] == 1.0
    assert rows["last layers"]["layers"] == [2, 3]
    assert rows["searched"]["loss"] != rows["nothing skipped"]["loss"]
    least = sorted(saved["changes"], key=saved["changes"].get)[:2]
    assert rows["ranking"]["layers"] == sorted(map(int, least))

    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("random 1") == 2  # in the table and under its bar
    assert f"layer {policy.skipped[0]}" in page

    call("search", "--method", "eas", *common, *QUICK, "--out", out)  # once more: nothing is made again
    again = json.loads((out / "search.json").read_text())
    assert again["baselines"] == saved["baselines"]
    assert [r["scores"] for r in read_records(out / "records.jsonl") if r["kind"] == "skip-search"] == [
        r["scores"] for r in records if r["kind"] == "skip-search"
    ]
    status, _, err = call("train", "--method", "eas", *common, "--skip-from", out, "--limit", "4", "--max-steps", "1",
                          "--width", "4", "--out", tmp_path / "eas")  # fmt: skip
    assert status == 0, err
    assert la.load(tmp_path / "eas").skipped == policy.skipped
    status, _, err = call("eval", *common, "--policy", out, "--limit", "4", "--max-new-tokens", "2", "--out",
                          tmp_path / "eval")  # fmt: skip
    assert status == 0, err
    sample = next(r for r in read_records(tmp_path / "eval" / "records.jsonl") if r["kind"] == "sample")
    assert sample["kv_bytes"] == sample["full_kv_bytes"] // 2


def options(common, out, **more):
    names = dict(zip(common[::2], common[1::2], strict=True))
    given = {"model": str(names["--model"]), "data": str(names["--data"]), "split": "all", "limit": 24, "judged": 8,
             "random_sets": 1, "steps": 3, "skip": 1, "subsets": 2, "reward_batch": 4}  # fmt: skip
    return Options(**{**given, "out": out, **more})


def test_killed_between_two_sets_it_goes_on_with_the_next(common, tmp_path, monkeypatch):
    from lookaway.search.skips import compare as skip_compare

    real, made = skip_compare.evaluate_skips, []

    def dies(model, batches, policy):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(policy)
        return real(model, batches, policy)

    monkeypatch.setattr(skip_compare, "evaluate_skips", dies)
    with pytest.raises(KeyboardInterrupt):
        run(options(common, tmp_path / "cut", train=False))
    assert not (tmp_path / "cut" / "config.json").exists()
    monkeypatch.setattr(skip_compare, "evaluate_skips", lambda *given: (made.append(given[2]), real(*given))[1])
    resumed = run(options(common, tmp_path / "cut", train=False))
    assert len(made) == len(resumed["baselines"]) == 5
    assert resumed["baselines"] == run(options(common, tmp_path / "whole", train=False))["baselines"]
    assert la.load(tmp_path / "cut").adapters is None
    with pytest.raises(DataError, match=r"options\.seed: 0 -> 1; .*samples\.questions: "):
        run(options(common, tmp_path / "cut", train=False, seed=1))
    (tmp_path / "cut" / "skip-baselines.json").write_text("{")
    with pytest.raises(DataError, match=r"skip-baselines.json is damaged"):
        run(options(common, tmp_path / "cut", train=False))


def test_a_verdict_is_what_generation_says(common, tmp_path):
    """The reference for one forward a batch: greedy generation, one sample at a time."""
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor
    from lookaway.data import load_samples
    from lookaway.models.encoding import encode
    from lookaway.search.skips.compare import evaluate_skips

    model, processor = tiny("llava").model, tiny_processor()
    samples = load_samples(str(dict(zip(common[::2], common[1::2], strict=True))["--data"]), "all", 6)
    policy, end = la.AttentionSkip((1, 3)), processor.tokenizer.eos_token_id
    model.lm_head.weight.data[end] *= 3  # some answers end
    answers, own = [], []
    for number, sample in enumerate(samples):
        inputs = encode(processor, [sample]).inputs
        with la.attach(model, policy):
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, eos_token_id=end)
        said = ids[0, inputs["input_ids"].shape[1] :].tolist()
        answers.append([token for token in said if token != end])
        own.append(end in said and number % 2 == 0)  # the end token must come too
        if number % 2:
            answers[-1] = [*answers[-1][:-1], (answers[-1][-1] + 1) % 90 if answers[-1] else 20]
    batches = [encode(processor, samples[i : i + 4], "cpu", answers[i : i + 4]) for i in (0, 4)]
    loss, right = evaluate_skips(model, batches, policy)
    assert [c == "1" for c in right] == own
    assert any(own)
    assert not all(own)
    assert loss > 0


def test_bad_input_is_refused_before_the_model_runs(common, tmp_path, call):
    base = ("search", "--method", "eas", *common, "--out", tmp_path / "s")
    for flags, message in [
        (("--limit", "10", "--judged", "8"), "at least 16 are needed"),
        (("--judged", "1"), "--judged must be at least 2"),
        (("--skip", "0"), "--skip"),
        (("--budget", "0.5"), "No such option"),
    ]:
        status, _, err = call(*base, *flags)
        assert status != 0, flags
        assert message in " ".join(err.split()), flags
    status, _, err = call(*base, "--skip", "4", "--limit", "24", "--judged", "8")
    assert status == 1
    assert "4 attentions to skip of 4" in err
    assert not (tmp_path / "s" / "config.json").exists()
    assert "--skip" not in call("search", "--help")[1].replace("--skip-", "")
    la.ExitAt(2).save_pretrained(tmp_path / "mine")
    with pytest.raises(DataError, match="holds a policy that was not searched"):
        run(options(common, tmp_path / "mine"))
    with pytest.raises(SettingsError, match="--random-sets at least 0"):
        options(common, tmp_path, random_sets=-1)
