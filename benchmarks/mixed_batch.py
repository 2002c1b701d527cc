"""A batch whose rows exit at different layers: do rows that have exited pay for rows that have not?

    python benchmarks/mixed_batch.py [--model lookaway-mini] [--rows 8] [--repeats 30] [--out FILE.json]

Four prefills of the same questions take turns: one by one, as one rectangle, in groups of like length (what `la.attach`
does), and without any policy. Exits are spread evenly over the depth, the last row never exits. Aim: groups at least .9
of the speed of one by one on a CPU, faster than one by one on a GPU.
"""

import argparse
import json
from pathlib import Path

import torch

import lookaway as la
from lookaway.core.files import write_json
from lookaway.data import load_samples
from lookaway.engine.api import attach
from lookaway.evaluation.header import run_header
from lookaway.evaluation.latency import measure, ratio
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mixed-batch.json"))
    options = parser.parse_args()

    model, processor = load_model(options.model)
    depth = la.anatomy(model).num_layers
    samples = [s for s in load_samples("scenes", limit=50 * options.rows) if s.images][::9][: options.rows]
    exits = [round(1 + (depth - 1) * i / (options.rows - 1)) for i in range(options.rows)]
    exits = [k if k < depth else None for k in exits]
    together = encode(processor, samples, device=model.device).inputs
    alone = [encode(processor, [sample], device=model.device).inputs for sample in samples]

    def batch(split: bool):
        def run() -> None:
            with attach(model, la.ExitAt(exits)) as attached:
                attached.split = split
                model(**together, use_cache=True, logits_to_keep=1)

        return run

    def one_by_one() -> None:
        for k, inputs in zip(exits, alone, strict=True):
            with attach(model, la.ExitAt(k)):
                model(**inputs, use_cache=True, logits_to_keep=1)

    variants = {
        "one by one": one_by_one,
        "one rectangle": batch(False),
        "groups": batch(True),
        "no policy": lambda: model(**together, use_cache=True, logits_to_keep=1),
    }
    times = measure(variants, repeats=options.repeats, device=model.device)
    found = {}
    for name, timing in times.items():
        middle, low, high = ratio(times["one by one"], timing)
        found[name] = {"seconds": timing.median, "speed against one by one": middle, "quartiles": [low, high]}
        print(f"{name:14} {1000 * timing.median:8.1f} ms   {middle:.3f} x one by one ({low:.3f} to {high:.3f})")
    header = run_header(
        "mixed_batch", model, "scenes", json.loads(json.dumps(vars(options), default=str)), 0, options.model
    )
    write_json(options.out, {"run": header, "exits": exits, "threads": torch.get_num_threads(), "variants": found})


if __name__ == "__main__":
    main()
