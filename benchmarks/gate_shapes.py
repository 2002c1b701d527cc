"""Which gate: shapes and labels compared at equal mean exit, on samples that training never saw.

python benchmarks/gate_shapes.py --model lookaway-mini-plain --json benchmarks/results/gate-shapes-plain.json

For each variant the thresholds are swept; printed is the agreement with the full model's answers at given mean exits,
beside the best that a fixed exit (or a mix of two) reaches there. Tables are cached: after
`benchmarks/gates_end_to_end.py` of the same sizes no model runs.
"""

import argparse
import json
from pathlib import Path

import torch
from gates_end_to_end import default_layers

from lookaway.cli.common import cache_folder
from lookaway.cli.progress import progress
from lookaway.core.exit_table import ExitTable
from lookaway.data import load_samples
from lookaway.models.loading import load_model
from lookaway.policies.exit_simulation import exit_probabilities, simulate
from lookaway.training.exit_labels import LabelOptions, image_names, make_exit_table, with_images
from lookaway.training.gate_options import GateOptions
from lookaway.training.gate_training import train_gates, what_happens

VARIANTS = {
    "light (shared, 128)": GateOptions(),
    "shared, 256": GateOptions(width=256),
    "shared, 512": GateOptions(width=512),
    "a gate a layer, 128": GateOptions(shared=False),
    "a gate a layer, 512": GateOptions(shared=False, width=512),
    "layer norm": GateOptions(norm="layer"),
    "no norm": GateOptions(norm="none"),
    "monotone labels": GateOptions(monotone=True),
    "no slack": GateOptions(absolute=0.0),
    "agreement alone": GateOptions(criterion="agreement"),
    "published": GateOptions(preset="published"),
    "one random layer": GateOptions(preset="one-random-layer"),
}
THRESHOLDS = (0.0, *torch.linspace(-4, 7, 80).sigmoid().tolist(), 1.0)


def at_mean_exit(points: list[tuple[float, float]], mean: float) -> float | None:
    """Best agreement at a mean exit; a mix of two points may be used."""
    found = [
        a if x == y else b + (d - b) * (mean - x) / (y - x)
        for x, b in points for y, d in points for a in [max(b, d)] if x <= mean <= y
    ]  # fmt: skip
    return max(found, default=None)


def gate_points(table: ExitTable, options: GateOptions, evaluator: ExitTable, images: dict[str, str]) -> list:
    gates = train_gates(table, options, images).gates
    p = exit_probabilities(gates, evaluator)
    found = [what_happens(evaluator, simulate(gates, evaluator, t, probabilities=p)) for t in THRESHOLDS]
    return [(row["mean_exit"], row["agreement"]) for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lookaway-mini-plain")
    parser.add_argument("--data", default="mini")
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--judge", type=int, default=170, help="calibration samples to judge on, one an image")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, processor = load_model(options.model)
    samples = load_samples(options.data, "train", options.train)
    samples = with_images(samples)
    others = with_images(load_samples(options.data, "calibration", options.judge, distinct_images=True))
    layers = default_layers(options.model)
    with progress("labels", len(samples)) as advance:
        table = make_exit_table(model, processor, samples, LabelOptions(candidates=layers), cache_folder(), advance)
    with progress("answers", len(others)) as advance:
        own = LabelOptions(candidates=layers, target="own")
        evaluator = make_exit_table(model, processor, others, own, cache_folder(), advance)
    images = image_names(samples)
    fixed = [(float(k), float(a)) for k, a in zip(evaluator.layers, evaluator.agree.float().mean(0), strict=True)]
    fixed.append((evaluator.layers[-1] + 1.0, 1.0))
    means = [round(share * fixed[-1][0], 1) for share in (0.15, 0.3, 0.5, 0.7, 0.85)]
    rows = {"fixed exits": [at_mean_exit(fixed, mean) for mean in means]}
    for name, variant in VARIANTS.items():
        found = []
        for seed in range(options.seeds):
            points = gate_points(table, GateOptions(**{**vars(variant), "seed": seed}), evaluator, images)
            found.append([at_mean_exit(points, mean) or float("nan") for mean in means])
        rows[name] = torch.tensor(found).mean(0).tolist()
    print(
        f"{options.model}: agreement with the full model at mean exit, {len(evaluator)} samples, {options.seeds} seeds"
    )
    print("| gate | " + " | ".join(map(str, means)) + " |\n|---" * 1 + "|---" * len(means) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join("–" if v is None else f"{v:.3f}" for v in row) + " |")
    if options.json:
        about = {"model": options.model, "train": len(samples), "judged": len(evaluator), "seeds": options.seeds}
        options.json.write_text(json.dumps({"options": about, "means": means, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
