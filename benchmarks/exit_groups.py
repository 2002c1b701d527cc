"""What it costs to read exit gates' decisions in groups, or one layer late, told from recorded exits: no model is run.

    python benchmarks/exit_groups.py [benchmarks/results/demo-plain/eval.jsonl] [--variant gates] [--first 1]

For each size of a group, and for decisions that are carried out before the layer behind the one that asked: host reads
a prompt of one row (layout, groups until the exit, and of single layers the removal), mean exit layer (never counts as
the number of layers), and decoder prefill FLOPs, which are linear in a row's exit layer.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from lookaway.core.record import read_records
from lookaway.policies.exit_simulation import reading_layers

DEFAULT = Path("benchmarks/results/demo-plain/eval.jsonl")


def moved(sample: dict[str, Any], candidates: list[int], every: int) -> tuple[int, int, float]:
    """(exit layer, host reads, FLOPs) of a recorded sample, had its gates been read once for `every` candidates."""
    depth, layer = sample["num_layers"], sample["exit_layer"]
    ends = sorted(set(reading_layers(candidates, every).values()))
    if layer is None:
        return depth, 1 + len(ends), sample["full_flops"]
    if sorted(sample["visual_tokens"], reverse=True)[:layer] != [sample["visual_tokens"][0]] * layer:
        raise SystemExit(f"Sample {sample['id']} lost tokens before its exit: give records of gates alone.")
    end = reading_layers(candidates, every)[layer]
    whole = sample["full_flops"] / depth
    rest = (sample["flops"] - layer * whole) / (depth - layer)
    return end, 1 + ends.index(end) + 1 + (every == 1), end * whole + (depth - end) * rest


def lagging(sample: dict[str, Any], candidates: list[int]) -> tuple[int, int, float]:
    """The same, had each decision been carried out one layer later. Every decision is still read, and so is the
    removal; what fires at the last layer removes nothing."""
    depth, layer = sample["num_layers"], sample["exit_layer"]
    if layer is None:
        return depth, 1 + len(candidates), sample["full_flops"]
    whole = sample["full_flops"] / depth
    rest = (sample["flops"] - layer * whole) / (depth - layer)
    end = layer + 1
    return end, 1 + len([k for k in candidates if k <= layer]) + (end < depth), end * whole + (depth - end) * rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="*", type=Path, default=[DEFAULT])
    parser.add_argument("--variant", default="gates")
    parser.add_argument("--first", type=int, default=1, help="first candidate layer; all behind it are candidates")
    options = parser.parse_args()
    for path in options.records:
        found = [r for r in read_records(path) if r["kind"] == "sample" and r["variant"] == options.variant]
        samples = [r for r in found if r["visual_tokens"][0]]
        depth = samples[0]["num_layers"]
        candidates = list(range(options.first, depth))
        print(f"{path}: {len(samples)} samples with an image, {len(candidates)} candidate layers")
        sizes = [size for size in (1, 2, 3, 4, 6, 8, 15) if size < len(candidates)] + [len(candidates)]
        ways = {f"read_every={every:2}": [moved(s, candidates, every) for s in samples] for every in sizes}
        ways["one layer late"] = [lagging(s, candidates) for s in samples]
        for way, rows in ways.items():
            exits, reads, flops = (mean(column) for column in zip(*rows, strict=True))
            share = flops / mean(sample["full_flops"] for sample in samples)
            most = max(row[1] for row in rows)
            print(f"{way:14}  {reads:5.1f} reads (most {most:2})  exit {exits:5.1f}  {share:6.1%} of FLOPs")


if __name__ == "__main__":
    main()
