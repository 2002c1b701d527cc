"""Methods before the decoder, inside it, and frozen tokens, at equal cost on the default model.

    python benchmarks/before_decoder.py [--models lookaway-mini-plain lookaway-mini] [--samples 160] [--keep 0.25]
                                        [--data mini-hard --target own]

Every method lets a layer process `--keep` of the visual tokens on average (FLOPs are counted and printed beside it; a
frozen layer processes them all, so ShortV freezes as few layers as bring its FLOPs down to those of evenly spaced
tokens). An answer is right where the argmax agrees at each of its tokens and its end; with `--target own` the answer is
the model's own without a policy. One question an image, of the test split (of `mini`; of other sets `test-seen`, which
asks for no unseen pairs of colour and shape); ShortV's layers are found on calibration samples. Each finished method is
a line of the results file: the same command goes on behind it, and refuses a file that was made of something else. The
last thing it prints is the table.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.earlier_results import require_same
from lookaway.core.errors import LookawayError
from lookaway.core.provenance import provenance
from lookaway.core.record import RecordWriter, read_records
from lookaway.data import load_samples
from lookaway.engine.replay.teacher_forcing import answer_logits
from lookaway.evaluation.header import run_header
from lookaway.evaluation.statistics import binomial_interval, mcnemar
from lookaway.models.answers import own_answers
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model
from lookaway.search.schedules.shortv import measure_contributions

BATCH = 8


def methods(keep: float, depth: int, side: int) -> dict[str, Any]:
    """Name -> policy; each lets a layer process `keep` of the `side` x `side` visual tokens on average.

    Pooling keeps whole cells, more than `keep` where they do not divide the grid: evenly spaced tokens stand beside it.
    """
    inside = (keep * depth - 2) / (depth - 2)  # what stays from layer 2 on, so that the mean is `keep`
    factor = round(keep**-0.5)
    pooled = (math.ceil(side / factor) / side) ** 2
    rows = {
        "unpruned": la.KeepAll(),
        "before: evenly spaced": la.UniformKeep(keep, layer=0),
        "before: evenly spaced, renumbered": la.UniformKeep(keep, layer=0, positions="renumber"),
        "before: random": la.RandomKeep(keep, layer=0),
        "before: downsampling": la.Downsample(factor),
        "before: DivPrune": la.DivPrune(keep),
        "before: CDPruner": la.CDPruner(keep),
        "before: VisionZip": la.VisionZip(keep),
        "before: DART": la.DART(layer=0, keep=keep),
        "inside: evenly spaced from layer 2": la.UniformKeep(inside, layer=2),
        "inside: FastV's shape": la.FastV(layer=2, ratio=1 - inside),
        "inside: DART": la.DART(layer=2, keep=inside),
        "inside: SparseVLM": la.SparseVLM({2: inside}),
        "inside: AutoPrune": la.AutoPrune(budget=keep),
        "inside: AutoPrune, gamma 0.04": la.AutoPrune(budget=keep, gamma=0.04),
        "inside: fixed exit": la.ExitAt(int(keep * depth)),
    }
    if round(pooled * side**2) != round(keep * side**2):
        rows["before: evenly spaced, as many as downsampling"] = la.UniformKeep(pooled, layer=0)
    return rows


class Bench:
    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options, self.path = options, results_file(name, options)
        self.model, self.processor = load_model(name)
        split = "test" if options.data == "mini" else "test-seen"
        self.test = load_samples(options.data, split, options.samples, 0, distinct_images=True)
        self.calibration = load_samples(options.data, "calibration", options.calibration, 0, distinct_images=True)
        settings = {"keep": options.keep} if options.target == "truth" else {"keep": options.keep, "target": "own"}
        facts = provenance(model=self.model, processor=self.processor, samples=[*self.test, *self.calibration],
                           **settings)  # fmt: skip
        facts = json.loads(json.dumps(facts, default=str))
        header = run_header("before_decoder", self.model, options.data, vars(options), 0, name, facts)
        found = list(read_records(self.path)) if self.path.exists() else []
        known = next((record["facts"] for record in found if record["kind"] == "before-decoder-run"), facts)
        require_same(known, facts, self.path)
        self.parts = {record["part"]: record for record in found if record["kind"] == "before-decoder"}
        self.writer = RecordWriter(self.path)
        if not found:
            self.writer.write("run", **header)
            self.writer.write("before-decoder-run", facts=facts)

    @cached_property
    def answers(self) -> dict[str, Any]:
        """Sample id -> the answer that must be given, as text or token ids; the model runs where something is left."""
        if self.options.target == "truth":
            return {sample.id: str(sample.answer) for sample in self.test}
        batches = [self.test[first : first + BATCH] for first in range(0, len(self.test), BATCH)]
        return dict(own_answers(self.model, self.processor, batches))

    def part(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` returns, from the results file where it is there already."""
        if name not in self.parts:
            start, load = time.time(), os.getloadavg()[0]
            try:
                values = make()
            except LookawayError as error:
                values = {"refused": str(error)}
            values = {"part": name, **values, "took": round(time.time() - start, 1), "load": round(load, 2)}
            self.parts[name] = json.loads(json.dumps(values, default=str))
            self.writer.write("before-decoder", **self.parts[name])
            print(f"{name}: {self.parts[name]['took']} s", flush=True)
        return self.parts[name]

    @torch.no_grad()
    def score(self, policy: Any, processor: Any = None) -> dict[str, Any]:
        """Which test questions are right under a policy, and what their prefill costs beside the whole picture's."""
        right, flops, slots, full, full_slots = [], 0, 0, 0, 0
        for first in range(0, len(self.test), BATCH):
            some = self.test[first : first + BATCH]
            batch = encode(processor or self.processor, some, self.model.device, [self.answers[s.id] for s in some])
            with la.attach(self.model, policy) as attached:
                logits, targets = answer_logits(self.model, attached, batch)
            hits = (logits.argmax(-1) == targets).split(batch.answer_mask.sum(1).tolist())
            right += [bool(part.all()) for part in hits]
            costs = [attached.trace.row_cost(row) for row in range(len(some))]
            flops, slots = flops + sum(c.flops for c in costs), slots + sum(c.kv_bytes for c in costs)
            full, full_slots = full + sum(c.full_flops for c in costs), full_slots + sum(c.full_kv_bytes for c in costs)
        whole = self.parts.get("unpruned", {"flops": full, "kv_bytes": full_slots})
        return {"right": "".join(str(int(r)) for r in right), "flops": flops, "kv_bytes": slots,
                "flops_share": flops / whole["flops"], "kv_share": slots / whole["kv_bytes"]}  # fmt: skip

    def shortv(self) -> dict[str, Any]:
        """As few frozen layers as cost no more than evenly spaced tokens."""

        def measure() -> dict[str, Any]:
            found = measure_contributions(self.model, self.processor, self.calibration, BATCH)
            return {"divergence": found.divergence, "flops_shares": found.flops_shares}

        found = self.part("ShortV's layers", measure)
        target, shares = self.parts["before: evenly spaced"]["flops_share"], found["flops_shares"]
        count = next((n for n, share in enumerate(shares) if share <= target), len(shares) - 1)
        order = sorted(found["divergence"], key=found["divergence"].__getitem__)
        frozen = sorted(int(layer) for layer in order[:count])
        return {**self.score(la.ShortV(frozen)), "frozen": frozen}

    def smaller(self) -> dict[str, Any]:
        """The picture itself smaller, in whole patches; the tower's position embeddings are interpolated."""
        patch = self.model.config.vision_config.patch_size
        side = round(self.model.config.vision_config.image_size * self.options.keep**0.5 / patch) * patch
        with interpolated(self.model):
            return self.score(la.KeepAll(), with_side(self.processor, side))

    def run(self) -> None:
        depth = la.anatomy(self.model).num_layers
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        for name, policy in methods(self.options.keep, depth, side).items():
            self.part(name, partial(self.score, policy))
        self.part("before: smaller picture", self.smaller)
        self.part("inside: ShortV", self.shortv)
        self.writer.close()


def results_file(name: str, options: argparse.Namespace) -> Path:
    """Of one model on one set of questions; the shares and targets of a file are the same for all its lines."""
    return Path(options.out) / f"before-decoder-{name}{'' if options.data == 'mini' else '-' + options.data}.jsonl"


def with_side(processor: Any, side: int) -> Any:
    """The processor for square pictures of this many pixels a side."""
    other = copy.deepcopy(processor)
    other.image_processor.size = {"height": side, "width": side}
    other.image_processor.crop_size = {"height": side, "width": side}
    return other


@contextmanager
def interpolated(model: Any) -> Iterator[None]:
    """While it is open, the vision tower takes pictures of any size."""
    tower = model.model.vision_tower
    tower.forward = partial(type(tower).forward, tower, interpolate_pos_encoding=True)
    try:
        yield
    finally:
        del tower.forward


def table(path: Path) -> str:
    """The results as a Markdown table, the best first; p: McNemar's test against evenly spaced tokens."""
    parts = {r["part"]: r for r in read_records(path) if r["kind"] == "before-decoder" and "took" in r}
    base = [c == "1" for c in parts.get("before: evenly spaced", {}).get("right", "")]
    rows, refused = [], []
    for name, part in parts.items():
        if "refused" in part:
            refused.append(f"{name}: refused ({part['refused']})")
        elif "right" in part:
            hits = [c == "1" for c in part["right"]]
            found = binomial_interval(sum(hits), len(hits))
            p = f"{mcnemar(hits, base):.3f}" if len(base) == len(hits) else "–"
            shares = f"{part['flops_share']:.1%} | {part['kv_share']:.1%}"
            interval = f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"
            rows.append((found.value, f"| {name} | {shares} | {interval} | {p} |"))
    lines = [line for _, line in sorted(rows, key=lambda row: -row[0])]
    head = ["| method | prefill FLOPs | KV | right, 95 % | p against evenly spaced |", "|---|---|---|---|---|"]
    return "\n".join([f"{path.stem}, {len(base)} questions", *head, *lines, *refused])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["lookaway-mini-plain", "lookaway-mini"])
    parser.add_argument("--samples", type=int, default=160, help="test questions, one an image")
    parser.add_argument("--keep", type=float, default=0.25, help="visual tokens a layer processes on average, a share")
    parser.add_argument("--data", default="mini", help="a generated set of questions: mini, mini-hard, ...")
    parser.add_argument("--target", choices=["truth", "own"], default="truth", help="the answer that must be given")
    parser.add_argument("--calibration", type=int, default=4, help="samples that find ShortV's layers")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only print what the results files hold")
    options = parser.parse_args()
    for name in options.models:
        if not options.table:
            Bench(name, options).run()
        print(table(results_file(name, options)), flush=True)


if __name__ == "__main__":
    main()
