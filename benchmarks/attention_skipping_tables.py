"""The tables of docs/methods/eas.md from a results file of attention_skipping.py.

python benchmarks/attention_skipping_tables.py benchmarks/results/attention-skipping-lookaway-mini-plain.jsonl
"""

import sys
from typing import Any

import numpy as np

from lookaway.core.record import read_records
from lookaway.evaluation.latency import Timing, ratio


def scores(parts: dict[str, Any]) -> None:
    print("| skipped | set | layers | right (95 %) | loss | p | FLOPs | KV |\n|---|---|---|---|---|---|---|---|")
    for name, row in parts.items():
        if name.startswith("score ") and "exit" not in name:
            value, low, high = row["accuracy"]
            layers = " ".join(map(str, row["skipped"])) or "–"
            print(
                f"| {len(row['skipped'])} | {name[6:]} | {layers} | {value:.1%} ({low:.0%} to {high:.0%}) | "
                f"{row['loss']:.3f} | {row.get('p', 1):.3f} | {row['flops_share']:.1%} | {row['kv_share']:.1%} |"
            )


def timing(runs: list[float]) -> Timing:
    low, middle, high = (float(v) for v in np.percentile(runs, [25, 50, 75]))
    return Timing(middle, low, high, tuple(runs))


def times(parts: dict[str, Any]) -> None:
    """Decoding is the difference of the same round's 17 tokens and first token, where both were timed."""
    print("| variant | first token | 17 tokens | KV bytes |\n|---|---|---|---|")
    first, whole = (parts.get(f"latency {name}", {}).get("variants", {}) for name in ("first", "whole"))
    for name in dict.fromkeys([*whole, *first]):
        cells = []
        for found in (first, whole):
            if name not in found:
                cells.append("–")
                continue
            median, low, high = ratio(timing(found["bare"]["seconds"]), timing(found[name]["seconds"]))
            cells.append(f"{median:.2f} × ({low:.2f} to {high:.2f})")
        kept = first.get(name) or whole[name]
        print(f"| {name} | {cells[0]} | {cells[1]} | {kept.get('kv_bytes', '–')} |")


def equal(parts: dict[str, Any]) -> None:
    print("| with the skip | speed-up | right, loss | exit alone | speed-up | right, loss |\n|---|---|---|---|---|---|")
    for name, row in parts.items():
        if name.startswith("equal "):
            mine, other = parts[f"score {row['with']}"], parts[f"score {row['exit alone']}"]
            print(
                f"| {row['with']} | {row['speedup'][0]:.2f} × | {mine['accuracy'][0]:.1%}, {mine['loss']:.3f} | "
                f"{row['exit alone']} | {row['speedup'][1]:.2f} × | {other['accuracy'][0]:.1%}, {other['loss']:.3f} |"
            )


def main() -> None:
    parts = {record["part"]: record for record in read_records(sys.argv[1:])}
    run = parts["run"]
    print(f"{run['hardware']}; {run['versions']}; {run['created']}\n{run['options']}\n")
    for draw in (scores, times, equal):
        draw(parts)
        print()
    for name, row in parts.items():
        print(f"{name}: {row['took']} s at load {row['load']:.1f}")


if __name__ == "__main__":
    main()
