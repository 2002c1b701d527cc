"""A trained twig's ranking beside the last token's attention (FastV) at equal FLOPs, on the default model.

    python benchmarks/twig.py --twig out/twig [--model lookaway-mini-plain] [--samples 160] [--out FILE]

For each share of FastV's, the twig (whose own layers cost FLOPs) keeps as many tokens fewer as make the counted FLOPs
of both equal on the first prompt; beside them the same twig without its training, and evenly spaced tokens. An answer
is right where the argmax agrees at each of its tokens and its end. One question an image, of the test split. The
results file is written when all is done.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.provenance import provenance
from lookaway.core.record import write_records
from lookaway.data import load_samples
from lookaway.engine.replay.teacher_forcing import answer_logits
from lookaway.evaluation.header import run_header
from lookaway.evaluation.statistics import binomial_interval, mcnemar
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model

BATCH = 8


@torch.no_grad()
def score(model: Any, processor: Any, samples: list[Any], policy: Any) -> dict[str, Any]:
    """Which questions are right under a policy, and the counted FLOPs of its prefill beside the unpruned one's."""
    right, flops, full = [], 0, 0
    for first in range(0, len(samples), BATCH):
        some = samples[first : first + BATCH]
        batch = encode(processor, some, model.device, [str(s.answer) for s in some])
        with la.attach(model, policy) as attached:
            logits, targets = answer_logits(model, attached, batch)
        hits = (logits.argmax(-1) == targets).split(batch.answer_mask.sum(1).tolist())
        right += [bool(part.all()) for part in hits]
        costs = [attached.trace.row_cost(row) for row in range(len(some))]
        flops, full = flops + sum(c.flops for c in costs), full + sum(c.full_flops for c in costs)
    return {"right": right, "flops_share": flops / full}


def of_equal_flops(twig: Any, shape: Any, share: float, visual: int, text: int) -> float:
    """The share that the twig keeps from layer K on at the FLOPs of FastV with `share` before layer K."""
    layers = range(twig.start, shape.num_layers)
    count = text + visual
    ranks = sum(shape.layer_flops(count) for _ in range(twig.depth - 1))
    last = shape.layer(twig.start)
    ranks += 2 * count * (last.queries // 2 + last.keys)
    wanted = len(layers) * shape.layer_flops(text + round(share * visual)) - ranks
    fits = [n for n in range(1, visual + 1) if len(layers) * shape.layer_flops(text + n) <= wanted]
    if not fits:
        raise SystemExit(f"The twig alone costs more than FastV with {share:.0%} of the tokens. Give larger --shares.")
    return max(fits) / visual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini-plain")
    parser.add_argument("--twig", required=True)
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--out", type=Path, default=Path("out/twig-equal-cost.jsonl"))
    options = parser.parse_args()
    model, processor = load_model(options.model)
    samples = load_samples("mini", "test", options.samples, 0, distinct_images=True)
    twig, anatomy = la.load(options.twig), la.anatomy(model)
    first = encode(processor, samples[:1], model.device).inputs
    layout = anatomy.layout(first["input_ids"], first["attention_mask"])
    visual, text = int(layout.visual.sum()), int(layout.text.sum())
    facts = provenance(model=model, processor=processor, policy=twig, samples=samples)
    records: list[tuple[str, dict[str, Any]]] = [
        ("run", run_header("twig-equal-cost", model, "mini", vars(options), 0, options.model, facts))
    ]
    for share in options.shares:
        keep = of_equal_flops(twig, anatomy.shape, share, visual, text)
        policies = {
            "FastV": la.FastV(layer=twig.start, ratio=1 - share),
            "twig": twig.at(keep),
            "twig, not trained": la.Twig(start=twig.start, depth=twig.depth, keep=keep),
            "evenly spaced": la.UniformKeep(share, layer=twig.start),
        }
        found = {name: score(model, processor, samples, policy) for name, policy in policies.items()}
        for name, row in found.items():
            row["p"] = mcnemar(row["right"], found["FastV"]["right"])
            count = sum(row["right"])
            interval = binomial_interval(count, len(samples))
            print(
                f"share {share}, {name}: {count} of {len(samples)} ({interval.low:.1%} to {interval.high:.1%}) right "
                f"at {row['flops_share']:.1%} of the FLOPs; p {row['p']:.3f} against FastV",
                flush=True,
            )
        records.append(("twig-equal-cost", {"share": share, "twig_keeps": keep, "methods": found}))
    write_records(options.out, records)


if __name__ == "__main__":
    main()
