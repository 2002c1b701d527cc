"""What runs each command and holds its result against the judge. One function a row of COMMANDS in table.py."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from drafted_by_hand import rounds
from judge import Judge, evenly
from prepared import LAYERS, picture
from starlette.testclient import TestClient

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.core.exit_table import ExitTable
from lookaway.core.record import read_records
from lookaway.data import load_samples
from lookaway.models.encoding import encode
from lookaway.search.skips.options import SkipSearchOptions
from lookaway.search.skips.search import split_samples

NEW = 2
"""Tokens of an answer."""
ANSWER = 5
"""The same where it is drafted."""
EXIT = 2
BUDGET = {"lavin": 0.97}
"""Shares of the prefill that a family's few visual tokens can bring it down to; others: 0.9."""
MIXED_LAYERS = ("aya_vision", "gemma3", "paligemma2")
"""Families whose layers 1 and 2 have masks of two kinds; a twig's have one."""
NEAR = {"abs": 1e-4}
"""Nats: batches and replays round otherwise than single runs."""


@dataclass(frozen=True)
class Workplace:
    """A family's folder, the data, the judge, and the command line."""

    family: str
    judge: Judge
    first: int
    """The first layer before which something may leave."""
    model: Path
    data: Path
    samples: list[Any]
    call: Any
    out: Path

    @property
    def budget(self):
        return BUDGET.get(self.family, 0.9)

    def run(self, command, *arguments, split=True, out="out"):
        """The command's folder, when it did its job."""
        places = ["--split", "all"] if split else []
        status, _, errors = self.call(
            *command.split(), "--model", self.model, "--data", self.data, *places, "--out", self.out / out, *arguments
        )
        assert status == 0, errors
        return self.out / out

    def records(self, kind, out="out"):
        return [record for record in read_records(self.out / out / "records.jsonl") if record["kind"] == kind]

    def exit_loss(self, sample, tokens, layer):
        """Loss of an answer whose image left before `layer`."""
        return self.judge.loss(sample, tokens, lambda inputs: self.judge.at_exit(inputs, layer))

    def mean_loss(self, seen=None, samples=None, without=()):
        found = [self.judge.loss(s, self.judge.tokens(s.answer), seen, without) for s in samples or self.samples]
        return float(np.mean(found))


def answer_alone(model, processor, sample, policy):
    """(tokens, cost) of one sample by itself, by the model's own generate."""
    inputs = encode(processor, [sample], model.device).inputs
    with torch.no_grad(), la.attach(model, policy) as run:
        ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return ids[0, inputs["input_ids"].shape[1] :].tolist(), run.trace.cost()


# one question --------------------------------------------------------------------------------------------------------


def ask(w):
    sample = w.samples[0]
    status, _, errors = w.call("ask", "--model", w.model, "--exit-at", EXIT, "--image", sample.images[0],
                               "--max-new-tokens", NEW, "--json", w.out / "a.json", sample.question)  # fmt: skip
    assert status == 0, errors
    found = json.loads((w.out / "a.json").read_text())
    assert found["exit_layer"] == EXIT
    assert found["answer"] == w.judge.text(w.judge.greedy(sample, NEW, EXIT))
    assert found["answer_without"] == w.judge.text(w.judge.greedy(sample, NEW))


def serve(w):
    """The server that the command would run, asked in this process."""
    replies = {}

    def asked(app, *rest):
        with TestClient(app) as client:
            for number, policy in ((0, "default"), (2, "off"), (4, "default")):
                sample = w.samples[number]
                data = base64.b64encode(Path(sample.images[0]).read_bytes()).decode()
                shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
                content = [shown, {"type": "text", "text": sample.question}]
                body = {"messages": [{"role": "user", "content": content}], "max_tokens": NEW,
                        "lookaway": {"policy": policy}}  # fmt: skip
                replies[number] = client.post("/v1/chat/completions", json=body).json()

    (w.out / "exit.yaml").write_text(f"policy: exit-at\nconfig: {{layer: {EXIT}}}\n")
    with mock.patch("lookaway.serving.openai.running.run_server", asked):
        status, _, errors = w.call("serve", "--model", w.model, "--policy", w.out / "exit.yaml")
    assert status == 0, errors
    for number, layer in ((0, EXIT), (2, None), (4, EXIT)):
        wanted = (
            w.judge.greedy(w.samples[number], NEW) if layer is None else w.judge.greedy(w.samples[number], NEW, layer)
        )
        assert replies[number]["choices"][0]["message"]["content"].strip() == w.judge.text(wanted), replies[number]
        assert replies[number]["usage"]["lookaway"]["exit_layer"] == layer


# evaluation ----------------------------------------------------------------------------------------------------------


def evaluate(w):
    w.run("eval", "--exit-at", EXIT, "--max-new-tokens", NEW, "--batch-size", 4)
    records = {record["id"]: record for record in w.records("sample") if record["variant"] == "policy"}
    for sample in w.samples:
        found = records[sample.id]
        assert found["answer_without"] == w.judge.text(w.judge.greedy(sample, NEW))
        assert found["answer_with"] == w.judge.text(w.judge.greedy(sample, NEW, EXIT))
        assert found["exit_layer"] == EXIT
        visual = len(w.judge.visual(w.judge.prompt(sample)))
        assert found["visual_tokens"] == [visual] * EXIT + [0] * (w.judge.depth - EXIT)
    curve = next(record for record in w.records("curve") if record["family"] == "all")
    point = curve["fixed"][curve["layers"].index(EXIT)]
    right = [_says(w, sample, EXIT) for sample in w.samples]
    assert point["accuracy"] == pytest.approx(np.mean(right))


def _says(w, sample, layer):
    """Whether the argmax is the truth at each of its tokens, the image gone before `layer`."""
    tokens = w.judge.tokens(sample.answer)
    logits = w.judge.answer_logits(sample, tokens, lambda inputs: w.judge.at_exit(inputs, layer))
    return logits.argmax(-1).tolist() == tokens


def report(w):
    w.run("eval", "--exit-at", EXIT, "--max-new-tokens", NEW, "--no-curve", "--limit", 2)
    status, _, errors = w.call("report", "--records", w.out / "out" / "records.jsonl", "--out", w.out / "r.html")
    assert status == 0, errors
    page = (w.out / "r.html").read_text()
    assert type(w.judge.model).__name__ in page or w.model.name in page
    assert "</html>" in page


# gates ---------------------------------------------------------------------------------------------------------------


def train(w):
    gates = w.run("train", "--width", 4, "--epochs", 1, "--max-new-tokens", NEW, "--label-batch", 4,
                  "--cache", w.out / "cache", "--target", "answer")  # fmt: skip
    _check_tables(w, {sample.id: w.judge.tokens(sample.answer) for sample in w.samples})
    policy = la.load(gates)
    assert policy.gates.layers == tuple(range(w.first, w.judge.depth))


def calibrate(w):
    gates = w.run("train", "--width", 4, "--epochs", 1, "--cache", w.out / "other", "--target", "answer", "--limit", 4)
    w.run("calibrate", "--policy", gates, "--max-new-tokens", NEW, "--cache", w.out / "cache", "--label-batch", 4,
          "--no-one-per-image", "--epsilon", 0.9, out="calibrated")  # fmt: skip
    end = w.judge.processor.tokenizer.eos_token_id
    _check_tables(w, {sample.id: [*w.judge.greedy(sample, NEW), end] for sample in w.samples})
    found = w.records("calibration", "calibrated")[-1]
    assert found["samples"] == len(w.samples)
    assert la.load(w.out / "calibrated").threshold == (found["threshold"] or la.load(w.out / "calibrated").threshold)


def _check_tables(w, answers):
    table = ExitTable.concat([ExitTable.load(file) for file in sorted((w.out / "cache").rglob("*.safetensors"))])
    rows = {name: row for row, name in enumerate(table.ids)}
    assert set(rows) == set(answers)
    for sample in w.samples:
        row, tokens = rows[sample.id], answers[sample.id]
        assert float(table.full_loss[row]) == pytest.approx(w.judge.loss(sample, tokens), **NEAR)
        for column, layer in enumerate(table.layers):
            assert float(table.loss[row, column]) == pytest.approx(w.exit_loss(sample, tokens, layer), **NEAR)


# training ------------------------------------------------------------------------------------------------------------


def train_eas(w):
    out = w.run("train --method eas", "--skip", 1, "--width", 2, "--max-steps", 1, "--batch-size", len(w.samples),
                "--accumulate", 1)  # fmt: skip
    first = w.records("training")[0]["history"][0]["loss"]  # adapters begin as nothing in the attention's place
    assert first == pytest.approx(w.mean_loss(without=(1,)), **NEAR)
    assert la.load(out).skipped == (1,)


def train_twig(w):
    start = 2 if w.family in MIXED_LAYERS else w.first
    out = w.run("train --method twig", "--start", start, "--depth", LAYERS - start, "--max-steps", 1, "--batch-size",
                len(w.samples), "--accumulate", 1)  # fmt: skip
    first = w.records("training")[0]["history"][0]["loss"]  # it begins as the very layers behind its start
    assert first == pytest.approx(w.mean_loss(), **NEAR)
    assert la.load(out).start == start


def tune(w):
    out = w.run("tune", "--exit-share", 1, "--exit-first", EXIT, "--exit-last", EXIT, "--max-steps", 1, "--rank", 2,
                "--batch-size", len(w.samples), "--save", "merged")  # fmt: skip
    first = w.records("training")[0]["history"][0]["loss"]  # LoRA begins as nothing
    assert first == pytest.approx(w.mean_loss(lambda inputs: w.judge.at_exit(inputs, EXIT)), **NEAR)
    sample = w.samples[0]
    status, _, errors = w.call("ask", "--model", out / "merged", "--exit-at", EXIT, "--image", sample.images[0],
                               "--max-new-tokens", 1, sample.question)  # fmt: skip
    assert status == 0, errors


# searches ------------------------------------------------------------------------------------------------------------

SMALL = ("--ranking", "uniform", "--random-trials", 1, "--max-new-tokens", NEW, "--batch-size", 4)


def _schedule(w, method, *arguments):
    """The schedule that was found costs the answers what the judge says it does."""
    out = w.run(f"search --method {method}", *SMALL, "--first-layer", w.first, *arguments)
    found = json.loads((out / "search.json").read_text())
    for rates, verdict in ((found["rates"], found["verdict"]), (found["random_rates"], found["random"])):
        expected = w.mean_loss(lambda inputs, rates=rates: evenly(rates, w.judge.visual(inputs)))
        assert verdict["loss"] == pytest.approx(expected, **NEAR)
    assert list(la.load(out).keep) == found["rates"]


def fit(w):
    """Every kind of policy is tried, VisionZip only where the tower's attention is known; whose answer changes at an
    exit is what the judge says; and only what passes its test is saved."""
    folder = w.out / "pictures"
    folder.mkdir()
    entries = []
    for number in range(12):
        picture(number).save(folder / f"{number}.png")
        entries.append({"id": str(number), "image": f"{number}.png", "question": f"what is {number}" + "?" * number})
    (folder / "data.json").write_text(json.dumps(entries))
    status, _, errors = w.call(
        "fit", "--model", w.model, "--data", folder / "data.json", "--epsilon", 0.9, "--shares", 0.5,
        "--before-shares", 0.3, "--halvings", 0, "--max-new-tokens", NEW, "--out", w.out / "out",
    )  # fmt: skip
    assert (w.out / "out" / "records.jsonl").exists(), errors
    found = w.records("fit")[0]
    passed = [row for row in found["tested"] if row["bound"] <= 0.9]
    assert (status == 0) == (w.out / "out" / "policy" / "config.json").exists() == bool(passed), errors
    samples = load_samples(str(folder / "data.json"), "train", distinct_images=True)
    names = {row["name"] for row in found["tried"]}
    assert {name.split("/")[0] for name in names} >= {"before-decoder", "reduction", "exit"}
    assert ("before-decoder/visionzip-0.3" in names) == (anatomy_of(w.judge.model).vision is not None)
    for row in found["tried"]:
        if not row["name"].startswith("exit/"):
            continue
        layer = int(row["name"].removeprefix("exit/"))
        assert row["samples"] == len(samples) > 2
        assert row["changed"] == sum(_changed(w, sample, layer) for sample in samples)
    assert (w.out / "out" / "report.html").exists()
    if passed:
        held_out = load_samples(str(folder / "data.json"), "test", distinct_images=True)
        records = list(read_records(w.out / "out" / "held-out.jsonl"))
        ran = [r for r in records if r["kind"] == "sample" and r["variant"] == "this policy"]
        assert {r["id"] for r in ran} == {s.id for s in held_out} != set()
        name = found["chosen"]["name"]
        if name.startswith("exit/"):
            assert all(r["exit_layer"] == int(name.removeprefix("exit/")) for r in ran)
        assert la.load(w.out / "out" / "policy").base is not None
        assert len([r for r in records if r["kind"] == "beside"]) > 1


def _changed(w, sample, layer):
    """The answer or where it ends differs where the image is gone before `layer`."""
    count = len(w.judge.greedy(sample, NEW)) + 1
    return w.judge.greedy(sample, count) != w.judge.greedy(sample, count, layer)


def p_sigmoid(w):
    _schedule(w, "p-sigmoid", "--trials", 2, "--budget", w.budget)


def g_search(w):
    _schedule(w, "g-search", "--tolerance", 0.2, "--resolution", 0.4)


def g_search_bayes(w):
    _schedule(w, "g-search", "--form", "bayes", "--layer-trials", 4, "--efficiency-weight", 0.3)


def random(w):
    _schedule(w, "random", "--trials", 2, "--budget", w.budget)


def single_layer(w):
    _schedule(w, "single-layer", "--trials", 2, "--budget", w.budget)


def vtw(w):
    out = w.run("search --method vtw", "--threshold", 1e3, "--batch-size", 4)
    found = json.loads((out / "search.json").read_text())
    assert la.load(out).layer == found["layer"] == w.first
    for layer, divergence in found["divergence"].items():
        gaps = []
        for sample in w.samples:
            inputs = w.judge.prompt(sample)
            full = w.judge.logits(inputs)[-1].log_softmax(-1)
            gone = w.judge.logits(inputs, w.judge.at_exit(inputs, int(layer)))[-1].log_softmax(-1)
            gaps.append(float((full.exp() * (full - gone)).sum()))
        assert divergence == pytest.approx(np.mean(gaps), **NEAR)


def shortv(w):
    out = w.run("search --method shortv", "--count", 2, "--batch-size", 3)
    found = json.loads((out / "search.json").read_text())
    for layer, divergence in found["divergence"].items():
        gaps = []
        for sample in w.samples:
            inputs = w.judge.prompt(sample)
            full = w.judge.logits(inputs)[-1].log_softmax(-1)
            frozen = w.judge.logits(inputs, frozen=(int(layer),))[-1].log_softmax(-1)
            gaps.append(float((frozen.exp() * (frozen - full)).sum()))
        assert divergence == pytest.approx(np.mean(gaps), **NEAR)
    least = sorted(range(w.judge.depth), key=lambda layer: found["divergence"][str(layer)])[:2]
    assert list(la.load(out).frozen) == sorted(least)


def search_eas(w):
    _, held = split_samples(w.samples, SkipSearchOptions(held_out=0.5))
    w.run("search --method eas", "--no-train", "--no-compare", "--steps", 1, "--skip", 1, "--subsets", 2,
          "--held-out", 0.5, "--reward-batch", len(held))  # fmt: skip
    for update in w.records("skip-search"):
        for subset, loss in zip(update["subsets"], update["losses"], strict=True):
            assert loss == pytest.approx(w.mean_loss(samples=held, without=subset), **NEAR)


def compare(w):
    """What a fixed exit and the full model get right is the judge's count. Searched and judged samples are apart."""
    entries = json.loads(w.data.read_text())
    halves = {"calibration": entries[:2], "test": entries[2:]}
    for name, half in halves.items():
        (w.out / f"{name}.json").write_text(
            json.dumps([{**entry, "image": str(w.data.parent / entry["image"])} for entry in half])
        )
    status, _, errors = w.call(
        "search", "--compare", "--model", w.model, "--data", w.out / "calibration.json", "--split", "all",
        "--test-data", w.out / "test.json", "--test-split", "all", "--budgets", 0.95, "--methods", "fixed-exit",
        "--methods", "linear", "--first-layer", w.first, "--out", w.out / "out", *SMALL,
    )  # fmt: skip
    assert status == 0, errors
    rows = {row["method"]: row for row in w.records("equal-cost")}
    layer = next((i for i, rate in enumerate(rows["fixed-exit"]["rates"]) if rate == 0), w.judge.depth)
    for method, exit_layer in (("fixed-exit", layer), ("full", w.judge.depth)):
        right = [_says(w, sample, exit_layer) for sample in w.samples[2:]]
        assert rows[method]["accuracy"][0] == pytest.approx(np.mean(right))


# observation ---------------------------------------------------------------------------------------------------------


def analyze(w):
    w.run("analyze", "--limit", 1, "--max-new-tokens", NEW)
    (study,) = w.records("study")
    sample = next(sample for sample in w.samples if sample.id == study["id"])
    said = w.judge.greedy(sample, NEW)
    tokens = [*said, w.judge.processor.tokenizer.eos_token_id]
    assert study["answer"] == w.judge.text(said)
    assert study["exits"]["full_loss"] == pytest.approx(w.judge.loss(sample, tokens), **NEAR)
    for layer, loss in zip(study["exits"]["layers"], study["exits"]["loss"], strict=True):
        assert loss == pytest.approx(w.exit_loss(sample, tokens, layer), **NEAR)
    assert study["knockout"]["full_loss"] == pytest.approx(w.judge.loss(sample, tokens), **NEAR)


def bench(w):
    w.run("bench", "--exits", EXIT, "--repeats", 1, "--new-tokens", ANSWER, "--draft", EXIT, split=False)
    rows = {(row["variant"], row["part"]): row for row in w.records("timing")}
    assert {part for _, part in rows} == {"decoder", "first token", "decode"}
    for part in ("decoder", "first token", "decode"):
        assert rows[f"exit at {EXIT}", part]["exit_layer"] == EXIT
        assert rows["idle", part]["exit_layer"] is None
    drafted = rows[f"draft {EXIT}", "decode"]
    assert drafted["same_answer"]
    assert (drafted["drafted"], drafted["accepted"]) == _guessed(w, next(s for s in w.samples if s.images))


def _guessed(w, sample):
    """(guessed, accepted) of a greedy answer of set length by early exit, by whole forwards."""
    prompt, draft = w.judge.prompt(sample), la.Draft(EXIT)
    anatomy, end = anatomy_of(w.judge.model), w.judge.processor.tokenizer.eos_token_id
    left = []

    def shares(logits):
        logits = logits.clone()
        logits[end] = -torch.inf
        return logits.softmax(-1)

    def guess(_, ids):
        hook = w.judge.layers[EXIT - 1].register_forward_hook(lambda module, args, output: left.append(output))
        w.judge.logits(w.judge.longer(prompt, ids[0, prompt["input_ids"].shape[1] :].tolist()))
        hook.remove()
        with torch.no_grad():
            return shares(anatomy.logits(left[-1][:, -1])[0])

    said = []
    for _ in range(ANSWER):
        grown = w.judge.longer(prompt, said) if said else prompt
        said.append(int(shares(w.judge.logits(grown)[-1]).argmax()))
    return rounds(guess, prompt, said, draft.tokens, draft.confidence)[:2]
