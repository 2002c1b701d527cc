"""Which measure of confidence tells best which answers a cheap policy changed: probability, margin or entropy.

    python benchmarks/confidences.py [--model lookaway-mini-plain] [--samples 160]

A second look sends every row below a threshold on. For each cheap policy and measure: of how many questions the least
sure must look again so that none, one or two of the changed answers are left, and how often a kept answer is surer than
a changed one (the area under the curve; equal ones count half). The best threshold for each count is chosen on the same
questions, so this compares the measures with one another and says nothing about a policy. One question an image.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import lookaway as la
from lookaway.core.files import write_json
from lookaway.core.provenance import provenance
from lookaway.data import load_samples
from lookaway.evaluation.header import run_header
from lookaway.models.loading import load_model
from lookaway.policies.second_look import CONFIDENCES
from lookaway.search.fit.sample_runs import SampleRuns

POLICIES = {
    "CDPruner .05": la.CDPruner(keep=0.05),
    "CDPruner .15": la.CDPruner(keep=0.15),
    "DivPrune .1": la.DivPrune(keep=0.1),
    "evenly spaced .2": la.UniformKeep(0.2, layer=0),
    "last token's attention .1 from layer 2": la.FastV(layer=2, ratio=0.9),
}


def looks_needed(same: Any, sure: Any, left: int) -> int:
    """How many of the least sure must look again, so that at most `left` changed answers are not among them."""
    order = np.argsort(sure, kind="stable")
    changed = np.concatenate([[0], np.cumsum(~same[order])])
    return int(np.argmax(changed[-1] - changed <= left))


def area(same: Any, sure: Any) -> float | None:
    """How often a kept answer is surer than a changed one; None where all or none changed."""
    kept, changed = sure[same][:, None], sure[~same][None]
    if not kept.size or not changed.size:
        return None
    return float((kept > changed).mean() + (kept == changed).mean() / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lookaway-mini-plain")
    parser.add_argument("--samples", type=int, default=160, help="questions, one an image, of the train split")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/confidences-MODEL.json")
    options = parser.parse_args()
    out = options.out or Path(f"benchmarks/results/confidences-{options.model}.json")
    samples = load_samples("mini", "train", options.samples, options.seed, distinct_images=True)
    model, processor = load_model(options.model)
    facts = provenance(model=model, processor=processor, samples=samples, options={"samples": options.samples})
    runs = SampleRuns(model, processor, samples, start=0)
    found: dict[str, Any] = {}
    for name, policy in POLICIES.items():
        rows = {}
        for kind in CONFIDENCES:
            runs.kind = kind
            one = runs.outcomes(policy)
            same, sure = one.same, one.sure
            rows[kind] = {"looks": [looks_needed(same, sure, left) for left in range(3)], "area": area(same, sure)}
        found[name] = {"changed": int((~same).sum()), "of": len(same), **rows}
        print(name, found[name], flush=True)
    runs.close()
    header = run_header("confidences", model, "mini", vars(options), options.seed, options.model, facts)
    write_json(out, {"run": header, "policies": found})


if __name__ == "__main__":
    main()
