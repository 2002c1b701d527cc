"""Attention skipping on the default model: score and time against skipped blocks, and against a visual exit.

    python benchmarks/attention_skipping.py [--model lookaway-mini-plain] [--samples 32] [--steps 30]

Skip sets come from the bandit search (EAS), from the training-free ranking and at random; sets are chosen on
calibration samples, adapters are trained on training samples, all scores are of held-out test samples. Each finished
part is a line of the results file: the same command goes on behind it. `benchmarks/README.md` says how to read it.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.record import RecordWriter, read_records
from lookaway.data import load_samples
from lookaway.engine.api import attach
from lookaway.engine.replay.teacher_forcing import answer_logits
from lookaway.evaluation.header import run_header
from lookaway.evaluation.latency import measure, ratio
from lookaway.evaluation.statistics import binomial_interval, mcnemar
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model
from lookaway.search.skips.ranking import least_change, output_changes, random_skips
from lookaway.search.skips.search import SkipSearchOptions, search_skips
from lookaway.training.adapter_training import AdapterOptions, train_adapters

EXITS = (8, 16, 22, 26)
TOKENS = 17  # one of the prefill, sixteen decoded


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model, self.processor = load_model(options.model)
        self.depth = la.anatomy(self.model).num_layers
        self.work = options.work / options.model
        self.lines = {r["part"]: r for r in read_records(options.out)} if options.out.exists() else {}
        self.writer = RecordWriter(options.out)
        self.part("run", lambda: run_header("attention_skipping", self.model, "mini", vars(options), 0, options.model))
        self.test = load_samples("mini", "test", options.samples, 0)
        self.calibration = load_samples("mini", "calibration", 200, 0)

    def part(self, name: str, make: Any) -> dict[str, Any]:
        """What `make` returns, from the results file where it is there already."""
        if name not in self.lines:
            start, load = time.time(), os.getloadavg()[0]
            values = make()
            self.lines[name] = {"part": name, **values, "took": round(time.time() - start, 1), "load": load}
            self.writer.write("benchmark", **json.loads(json.dumps(self.lines[name], default=str)))
            print(f"{name}: {self.lines[name]['took']} s", flush=True)
        return self.lines[name]

    # sets ------------------------------------------------------------------------------------------------------------

    def ranking(self) -> dict[int, float]:
        def make() -> dict[str, Any]:
            samples = self.calibration[:: max(1, len(self.calibration) // self.options.ranked)][: self.options.ranked]
            batches = [self.encoded(samples[i : i + 4]) for i in range(0, len(samples), 4)]
            return {"changes": output_changes(self.model, batches), "samples": len(samples)}

        return {int(layer): value for layer, value in self.part("ranking", make)["changes"].items()}

    def bandit(self) -> list[float]:
        """Scores of all layers after a search for 8 of them; plain skipping is judged, no supernet is trained."""

        def make() -> dict[str, Any]:
            chosen = SkipSearchOptions(
                skip=8, train=False, steps=self.options.updates, reward_batch=4, held_out=0.9, save_steps=1
            )
            found = search_skips(self.model, self.processor, self.calibration, self.work / "search", chosen)
            return {"scores": found.bandit.scores.tolist(), "best": found.layers, "history": found.history}

        return list(self.part("bandit", make)["scores"])

    def sets(self, count: int) -> dict[str, tuple[int, ...]]:
        scores = self.bandit()
        best = sorted(range(self.depth), key=lambda layer: (scores[layer], layer))[-count:]
        found = {"bandit": tuple(sorted(best)), "ranking": least_change(self.ranking(), count)}
        return found | {f"random-{seed}": random_skips(self.depth, count, seed) for seed in range(self.options.random)}

    # scores ----------------------------------------------------------------------------------------------------------

    def encoded(self, samples: Any) -> Any:
        return encode(self.processor, samples, self.model.device, [str(sample.answer) for sample in samples])

    def score(self, name: str, policy: Any) -> dict[str, Any]:
        """Greedy exact match (argmax at every answer token and the end token) and the answers' loss."""

        @torch.no_grad()
        def make() -> dict[str, Any]:
            right, losses = [], []
            for first in range(0, len(self.test), 4):
                batch = self.encoded(self.test[first : first + 4])
                with attach(self.model, policy) as attached:
                    logits, targets = answer_logits(self.model, attached, batch)
                counts = batch.answer_mask.sum(1).tolist()
                loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                hits = logits.argmax(-1) == targets
                right += [bool(part.all()) for part in hits.split(counts)]
                losses += [float(part.mean()) for part in loss.split(counts)]
            cost = attached.trace.cost()
            values: dict[str, Any] = {"right": "".join(str(int(r)) for r in right), "loss": sum(losses) / len(losses)}
            values["accuracy"] = binomial_interval(sum(right), len(right))
            values |= {"flops_share": cost.flops / cost.full_flops, "kv_share": cost.kv_share}  # of the last batch
            if "score none" in self.lines:
                base = [c == "1" for c in self.lines["score none"]["right"]]
                values["p"] = mcnemar(right, base)
            return values | {"skipped": attached.trace.skipped}

        return self.part(f"score {name}", make)

    def trained(self, name: str, layers: tuple[int, ...]) -> Any:
        """Adapters of the recommended form for one set."""
        folder = self.work / f"adapters-{name}"
        if not (folder / "config.json").exists():
            samples = load_samples("mini", "train", 4 * self.options.steps, 0)
            chosen = AdapterOptions(skip=layers, max_steps=self.options.steps, save_steps=20)

            def make() -> dict[str, Any]:
                found = train_adapters(self.model, self.processor, samples, folder, chosen)
                found.policy.save_pretrained(folder)
                losses = [row["loss"] for row in found.history if "loss" in row]
                return {"summary": found.summary, "losses": losses}

            self.part(f"train {name}", make)
        return la.load(folder)

    # time ------------------------------------------------------------------------------------------------------------

    def latency(self, name: str, policies: dict[str, Any], count: int, merged: Any = None) -> dict[str, Any]:
        """Seconds of `count` tokens from the picture on, all variants in turns; attaching is timed too."""

        def make() -> dict[str, Any]:
            inputs = encode(self.processor, [self.test[0]], self.model.device).inputs
            variants, traces = {}, {}

            def one(model: Any, policy: Any, key: str) -> Any:
                def run() -> None:
                    given = {"do_sample": False, "min_new_tokens": count, "max_new_tokens": count}
                    if policy is None:
                        model.generate(**inputs, **given)
                        return
                    with attach(model, policy) as attached:
                        model.generate(**inputs, **given)
                    traces[key] = attached.trace.cost()

                return run

            variants["bare"] = one(self.model, None, "bare")
            variants |= {key: one(self.model, policy, key) for key, policy in policies.items()}
            if merged is not None:
                variants["merged"] = one(*merged, "merged")
            times = measure(variants, repeats=self.options.repeats, warmup=1)
            rows = {key: {"seconds": t.runs, "speedup": ratio(times["bare"], t)} for key, t in times.items()}
            for key, cost in traces.items():
                rows[key] |= {"flops_share": cost.flops / cost.full_flops, "kv_bytes": cost.kv_bytes}
                rows["bare"]["kv_bytes"] = cost.full_kv_bytes
            return {"tokens": count, "prompt": int(inputs["input_ids"].shape[1]), "variants": rows}

        return self.part(name, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini-plain")
    parser.add_argument("--samples", type=int, default=32, help="test samples")
    parser.add_argument("--ranked", type=int, default=4, help="calibration samples of the training-free ranking")
    parser.add_argument("--updates", type=int, default=12, help="of the bandit: 5 sets on 4 samples each")
    parser.add_argument("--steps", type=int, default=30, help="training steps of 4 samples of the adapters of a set")
    parser.add_argument("--trained", nargs="*", default=["ranking 12", "bandit 12", "ranking 8", "bandit 8"],
                        help="sets whose adapters are trained")  # fmt: skip
    parser.add_argument("--random", type=int, default=1, help="random sets of each size")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--work", type=Path, default=Path("out/attention-skipping"))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    options.out = options.out or Path(f"benchmarks/results/attention-skipping-{options.model}.jsonl")
    bench = Bench(options)

    # 1. Nothing in their place.
    bench.score("none", la.KeepAll())
    for count in (8, 12, 4):
        for name, layers in bench.sets(count).items():
            bench.score(f"{name} {count}", la.AttentionSkip(layers))
    # 2. After training of adapters.
    for name in options.trained:
        kind, count = name.split()
        bench.score(f"{name} trained", bench.trained(name, bench.sets(int(count))[kind]))
    # 3. Time, which does not depend on what adapters have learnt.
    chosen = bench.sets(8)["bandit"]
    width = bench.model.config.get_text_config().hidden_size
    new = la.AttentionSkip(chosen, la.SkipAdapters(width, chosen, AdapterOptions(skip=chosen).shape()))
    plain = {f"skip {count}": la.AttentionSkip(bench.sets(count)["bandit"]) for count in (4, 8, 12)}
    other = copy.deepcopy(bench.model)
    merged = (other, new.merge(other))
    exits = {f"exit {k}": la.ExitAt(k) for k in EXITS}
    both = {f"skip 8 adapters, exit {k}": la.chain(new, la.ExitAt(k)) for k in EXITS}
    first = bench.latency("latency first", {**plain, "skip 8 adapters": new, **exits, **both}, 1, merged)
    bench.latency("latency whole", {**plain, "skip 8 adapters": new}, TOKENS, merged)
    # 4. Exit alone, skip alone, both, at equal time to the first token. The ranking's set, nothing in its place; it is
    # timed with adapters (and the bandit's set), so a little too slow.
    speed = {key: row["speedup"][0] for key, row in first["variants"].items()}
    ranked = la.AttentionSkip(bench.sets(8)["ranking"])
    for k in (None, *EXITS[::-1]):
        timed = "skip 8" if k is None else f"skip 8 adapters, exit {k}"
        nearest = min(exits, key=lambda name: abs(speed[name] - speed[timed]))
        mine = "ranking 8" if k is None else f"ranking 8, exit {k}"
        bench.score(nearest, exits[nearest])
        bench.score(mine, ranked if k is None else la.chain(ranked, la.ExitAt(k)))
        bench.part(f"equal {mine}", lambda m=mine, n=nearest, t=timed: {
            "with": m, "exit alone": n, "timed": t, "speedup": [speed[t], speed[n]]})  # fmt: skip


if __name__ == "__main__":
    main()
