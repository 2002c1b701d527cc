"""Do sampled answers fall with a draft as they fall without one? Counts of real draws against the exact distribution.

    python benchmarks/drafted_draws.py [--draws 250] [--out out/drafted-draws.jsonl]

On a tiny random LLaVA under an exit: answers of three tokens, with temperature, top-k, top-p and a repetition penalty,
so that every acceptance, refusal and drawing anew happens. The exact probability of each answer is found by whole
prompts, one token each, without a draft. Each run draws anew and adds its counts to --out; the chi-square is of all
runs in the file. `tests/engine/draft/test_sampling.py` follows every branch of the draws; here torch's own are used.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from scipy.stats import chi2

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.files import write_text

POLICY = la.ExitAt(2)
LENGTH, END = 3, 2
OPTIONS: dict[str, Any] = {
    "do_sample": True, "temperature": 1.2, "top_k": 4, "top_p": 0.95, "repetition_penalty": 1.3,
    "suppress_tokens": [IMAGE, END],
}  # fmt: skip
DRAFTS = {
    "no draft": None,
    "early exit 1, always 2 tokens": la.Draft(1, 2, 0.0),
    "early exit 2, by confidence": la.Draft(2, 2, 0.3),
    "twig": la.Draft(la.Twig(start=2, depth=1), 2, 0.0),
}


def exact(model: Any, inputs: dict[str, torch.Tensor]) -> dict[tuple[int, ...], float]:
    """Answer -> its probability, by a whole prompt for each of its tokens."""
    tails: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer = {}
        for tail, share in tails.items():
            ids = torch.cat([inputs["input_ids"], torch.tensor([tail], dtype=torch.long)], 1)
            given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with la.attach(model, POLICY):
                found = model.generate(
                    **given, **OPTIONS, max_new_tokens=1, return_dict_in_generate=True, output_scores=True
                )
            shares = found.scores[0][0].softmax(-1)
            longer |= {(*tail, token): share * float(shares[token]) for token in shares.nonzero()[:, 0].tolist()}
        tails = longer
    return tails


def drawn(model: Any, inputs: dict[str, torch.Tensor], draft: Any, draws: int) -> tuple[Counter[tuple[int, ...]], int]:
    """How often each answer was drawn, and how many guesses were refused."""
    counts, refused = Counter[tuple[int, ...]](), 0
    with la.attach(model, POLICY, draft=draft) as run:
        for _ in range(draws):
            ids = model.generate(**inputs, **OPTIONS, max_new_tokens=LENGTH)
            counts[tuple(ids[0, -LENGTH:].tolist())] += 1
            refused += run.trace.drafted - run.trace.accepted
    return counts, refused


def fit_of(counts: Counter[tuple[int, ...]], shares: dict[tuple[int, ...], float]) -> tuple[float, int, float]:
    """(chi-square, degrees of freedom, p); answers expected fewer than five times count together.

    Raises:
        SystemExit: an answer was drawn that is impossible.
    """
    if strange := set(counts) - set(shares):
        raise SystemExit(f"{strange.pop()} was drawn, and its probability is 0.")
    total = sum(counts.values())
    rare = [answer for answer, share in shares.items() if share * total < 5]
    cells = [(counts[answer], share * total) for answer, share in shares.items() if answer not in rare]
    if rare:
        cells.append((sum(counts[answer] for answer in rare), sum(shares[answer] for answer in rare) * total))
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    freedom = len(cells) - 1
    return statistic, freedom, float(chi2.sf(statistic, freedom))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path("out/drafted-draws.jsonl"))
    options = parser.parse_args()
    made = tiny("llava")
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    rows = [json.loads(line) for line in lines]
    seed = len(rows)
    for name, draft in DRAFTS.items():
        torch.manual_seed(seed)
        seed += 1
        counts, refused = drawn(made.model, made.inputs(), draft, options.draws)
        rows.append({"draft": name, "refused": refused, "counts": [[list(k), n] for k, n in sorted(counts.items())]})
    write_text(options.out, "".join(f"{json.dumps(row)}\n" for row in rows))
    shares = exact(made.model, made.inputs())
    for name in DRAFTS:
        own = [row for row in rows if row["draft"] == name]
        counts = Counter({tuple(k): 0 for row in own for k, _ in row["counts"]})
        for row in own:
            counts.update({tuple(k): n for k, n in row["counts"]})
        statistic, freedom, p = fit_of(counts, shares)
        refused = sum(row["refused"] for row in own)
        print(f"{name}: {sum(counts.values())} draws, {refused} guesses refused; chi-square {statistic:.1f} of "
              f"{freedom}, p {p:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
