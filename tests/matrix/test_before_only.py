"""Every command on models that tokens may leave before the decoder only: right with a policy there, or refused."""

import json

import pytest
from checks import NEW, answer_alone

import lookaway as la
from lookaway.core.record import read_records
from lookaway.data import load_samples
from lookaway.models.loading import load_model

POLICY = la.DivPrune(0.5)
CURE = "What works on it is removal before the decoder, e.g. la.CDPruner(keep=0.5)"


@pytest.fixture
def policy(tmp_path):
    return POLICY.save_pretrained(tmp_path / "policy")


@pytest.fixture
def alone(before_only):
    """(samples, text of a sample's answer under a policy, run by itself)."""
    model, processor = load_model(str(before_only), device="cpu")

    def text(sample, policy):
        return processor.batch_decode([answer_alone(model, processor, sample, policy)[0]], skip_special_tokens=True)[0]

    return load_samples(str(before_only / "data.json"), "all")[:4], lambda *asked: text(*asked).strip()


def test_ask(call, before_only, policy, alone, tmp_path):
    samples, answer = alone
    status, _, errors = call("ask", "--model", before_only, "--policy", policy, "--image", samples[0].images[0],
                             "--max-new-tokens", NEW, "--json", tmp_path / "a.json", samples[0].question)  # fmt: skip
    assert status == 0, errors
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["answer"] == answer(samples[0], POLICY)
    assert found["answer_without"] == answer(samples[0], la.KeepAll())
    assert set(found["layer_visual_tokens"]) == {found["visual_tokens"] // 2}


def test_eval(call, before_only, policy, alone, tmp_path):
    """By default: what stands beside the policy leaves before the decoder, and no curve of exits is tried."""
    samples, answer = alone
    status, _, errors = call("eval", "--model", before_only, "--policy", policy, "--data", before_only / "data.json",
                             "--split", "all", "--score", "agreement", "--max-new-tokens", NEW, "--device", "cpu",
                             "--batch-size", 4, "--out", tmp_path / "out")  # fmt: skip
    assert status == 0, errors
    records = list(read_records(tmp_path / "out" / "records.jsonl"))
    found = {r["id"]: r for r in records if r["kind"] == "sample" and r["variant"] == "policy"}
    for sample in samples:
        assert found[sample.id]["answer_with"] == answer(sample, POLICY)
        assert found[sample.id]["answer_without"] == answer(sample, la.KeepAll())
    shown = [r["variant"] for r in records if r["kind"] == "summary"]
    assert shown[:3] == ["policy", "random tokens", "uniform tokens"]
    assert not any("exit" in name for name in shown)
    assert (tmp_path / "out" / "report.html").exists()


def test_eval_with_answers_has_no_curve_and_says_why(call, before_only, policy, tmp_path):
    entries = json.loads((before_only / "data.json").read_text())[:3]
    answered = [{**entry, "image": str(before_only / entry["image"]), "answer": "ab"} for entry in entries]
    (tmp_path / "d.json").write_text(json.dumps(answered))
    common = ["eval", "--model", before_only, "--policy", policy, "--data", tmp_path / "d.json", "--split", "all",
              "--max-new-tokens", NEW, "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip
    status, _, errors = call(*common)
    assert status == 0, errors
    assert "note: no curve of exits, no oracle: its" in errors
    assert (tmp_path / "out" / "report.html").exists()
    status, _, errors = call(*common, "--fresh", "--compare", policy)
    assert (status, CURE in errors) == (1, True)


def test_serve_is_refused_and_names_another_way(call, before_only, policy):
    status, _, errors = call("serve", "--model", before_only, "--policy", policy)
    assert status == 1
    assert "Attach a policy that acts before the decoder in your own service instead (docs/service.md)" in errors


def test_bench(call, before_only, policy, tmp_path):
    status, _, errors = call("bench", "--model", before_only, "--data", before_only / "data.json", "--policy", policy,
                             "--repeats", 1, "--new-tokens", 2, "--device", "cpu", "--out", tmp_path)  # fmt: skip
    assert status == 0, errors
    assert "note: no exits are timed: its" in errors
    rows = [r for r in read_records(tmp_path / "records.jsonl") if r["kind"] == "timing"]
    assert {row["variant"] for row in rows} == {"idle", "policy"}


def test_bench_refuses_a_draft_with_the_reason(call, before_only, tmp_path):
    status, _, errors = call("bench", "--model", before_only, "--data", before_only / "data.json", "--draft", 1,
                             "--repeats", 1, "--device", "cpu", "--out", tmp_path)  # fmt: skip
    assert status == 1
    assert "Drafting is not possible on" in errors
    assert "Traceback" not in errors


TRAINED = ("--max-steps", 1)
REFUSED = {
    "ask": ("ask", "--exit-at", 2, "--image", "0.png", "what?"),
    "eval": ("eval", "--exit-at", 2),
    "analyze": ("analyze", "--limit", 1),
    "bench": ("bench", "--exits", 2),
    "train": ("train", "--target", "own"),
    "train eas": ("train", "--method", "eas", "--skip", 1, *TRAINED),
    "train twig": ("train", "--method", "twig", "--start", 1, "--depth", 1, *TRAINED),
    "tune": ("tune", *TRAINED),
    "search p-sigmoid": ("search", "--method", "p-sigmoid", "--budget", 0.9),
    "search g-search": ("search", "--method", "g-search"),
    "search random": ("search", "--method", "random", "--budget", 0.9),
    "search single-layer": ("search", "--method", "single-layer", "--budget", 0.9),
    "search vtw": ("search", "--method", "vtw"),
    "search shortv": ("search", "--method", "shortv", "--count", 1),
    "search eas": (
        "search",
        "--method",
        "eas",
        "--skip",
        1,
        "--no-train",
        "--no-compare",
        "--steps",
        1,
        "--subsets",
        2,
        "--held-out",
        0.5,
    ),
    "search compare": ("search", "--compare", "--test-data", "other.json", "--test-split", "all"),
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_happens_inside_the_decoder_is_refused_with_the_reason_and_what_works(
    call, before_only, tmp_path, command
):
    places = {"0.png": before_only / "0.png", "other.json": tmp_path / "other.json"}
    entries = json.loads((before_only / "data.json").read_text())
    for place, part in ((tmp_path / "own.json", entries[:4]), (tmp_path / "other.json", entries[4:8])):
        place.write_text(json.dumps([{**e, "image": str(before_only / e["image"]), "answer": "ab"} for e in part]))
    first, *rest = (places.get(argument, argument) for argument in REFUSED[command])
    data = [] if first == "ask" else ["--data", tmp_path / "own.json", "--out", tmp_path / "out"]
    split = [] if first in ("ask", "bench") else ["--split", "all"]
    new = [] if "--method" in rest or first in ("bench", "tune") else ["--max-new-tokens", NEW]
    status, _, errors = call(first, "--model", before_only, *data, *split, *new, *rest)
    assert status == 1, errors
    assert CURE in errors
    assert "Traceback" not in errors
