"""Tokens a second of whole answers: with a policy and without, with a draft and without, beside the bare model.

    python benchmarks/generation.py [--model lookaway-mini] [--tokens 1 16 64 256] [--layers 24 28] [--twig TWIG]
        [--assistant MODEL] [--policy POLICY] [--samples 2] [--repeats 7] [--out FILE.jsonl] [--accept-only]

For each length all variants take turns in one process, and a speed-up is the median over rounds of bare / variant, with
its quartiles; attaching is not timed. Every answer has exactly as many tokens as are asked for (its end is suppressed),
so that all do the same work. Behind the end of its own answer a model goes on with text that nobody trained, and
guesses fare otherwise there: what is accepted of the model's own answers, which end where they end, stands beside it.
Drafts: prompt lookup, early exit behind each of --layers, a twig, a smaller model as assistant (its own copy of the
image goes with it). Each drafted answer must be, token by token, the one without a draft; the script stops where one is
not. `--accept-only` times nothing: what is accepted is the same on a busy machine.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.provenance import provenance
from lookaway.core.record import write_records
from lookaway.data import load_samples
from lookaway.evaluation.header import run_header
from lookaway.evaluation.latency import measure, ratio
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model
from lookaway.models.mini.model import shipped_gates


@dataclass(frozen=True)
class Variant:
    """One way to generate: under a policy (None: nothing is attached), by a draft, with options of `generate`."""

    policy_name: str
    draft_name: str
    policy: Any = None
    draft: Any = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.policy_name}, {self.draft_name}"

    def attached(self, model: Any) -> AbstractContextManager[Any]:
        if self.policy is None and self.draft is None:
            return nullcontext()
        return la.attach(model, self.policy or la.KeepAll(), draft=self.draft)


def variants_of(model: Any, options: argparse.Namespace) -> list[Variant]:
    """Every policy with every draft; first the bare model."""
    policies: dict[str, Any] = {"bare": None, "FastV": la.FastV(layer=2, ratio=0.5)}
    if options.policy:
        policies[options.policy] = la.load(options.policy)
    elif options.model.startswith("lookaway-mini"):
        policies["FastV, gates"] = la.chain(policies["FastV"], la.load(shipped_gates(options.model)))
    drafts = {"no draft": Variant("", "no draft")}
    drafts["prompt lookup"] = Variant("", "prompt lookup", options=(("prompt_lookup_num_tokens", options.guesses),))
    for layers in options.layers:
        name = f"early exit {layers}"
        drafts[name] = Variant("", name, draft=la.Draft(layers, options.guesses, options.confidence))
    if options.twig:
        drafts["twig"] = Variant("", "twig", draft=la.Draft(la.load(options.twig), options.guesses, options.confidence))
    if options.assistant:
        assistant = load_model(options.assistant, device=model.device)[0]
        drafts["assistant"] = Variant("", "assistant", options=(("assistant_model", assistant),))
    return [
        replace(draft, policy_name=name, policy=policy)
        for name, policy in policies.items()
        for draft in drafts.values()
    ]


@torch.no_grad()
def answers(
    model: Any, prompts: list[Any], variant: Variant, run: Any, **length: Any
) -> tuple[list[list[int]], dict[str, int]]:
    """The answers of all prompts, ids, and what became of the guesses in them. `run`: what `attached` gave."""
    found, counts = [], {"drafted": 0, "accepted": 0, "checks": 0}
    for prompt in prompts:
        ids = model.generate(**prompt, do_sample=False, **length, **dict(variant.options))
        found.append(ids[0, prompt["input_ids"].shape[1] :].tolist())
        if variant.draft is not None:
            counts = {name: count + getattr(run.trace, name) for name, count in counts.items()}
    return found, counts


def accepted(model: Any, prompts: list[Any], variants: list[Variant], **length: Any) -> dict[str, dict[str, Any]]:
    """What each variant accepts, by name; its answers are held against those without a draft."""
    plain: dict[str, Any] = {}
    found = {}
    for variant in variants:
        with variant.attached(model) as run:
            ids, counts = answers(model, prompts, variant, run, **length)
        if plain.setdefault(variant.policy_name, ids) != ids:
            raise SystemExit(f"{variant.name}: these are not the answers without a draft.")
        share = counts["accepted"] / counts["drafted"] if counts["drafted"] else None
        found[variant.name] = {**counts, "acceptance": share, "tokens": sum(map(len, ids))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 28])
    parser.add_argument("--twig")
    parser.add_argument("--assistant")
    parser.add_argument("--policy")
    parser.add_argument("--guesses", type=int, default=la.Draft(1).tokens)
    parser.add_argument("--confidence", type=float, default=la.Draft(1).confidence)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--accept-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/generation.jsonl"))
    options = parser.parse_args()

    model, processor = load_model(options.model)
    samples = load_samples("mini", "test", options.samples, 0, distinct_images=True)
    prompts = [encode(processor, [sample], device=model.device).inputs for sample in samples]
    variants = variants_of(model, options)
    facts = provenance(model=model, processor=processor, policy=variants[-1].policy, samples=samples)
    header = run_header(
        "generation", model, "mini", {**vars(options), "out": str(options.out)}, 0, options.model, facts
    )
    records: list[tuple[str, dict[str, Any]]] = [("run", {**header, "threads": torch.get_num_threads()})]
    write_records(options.out, records)  # anew behind each length: 256 tokens take long, and may be ended

    own = accepted(model, prompts, variants, max_new_tokens=max(options.tokens))
    for name, row in own.items():
        records.append(("own answers", {"variant": name, **row}))
        print(f"own answers, {name}: {_words(row)}", flush=True)
    for tokens in options.tokens:
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        counts = accepted(model, prompts, variants, **length)
        times = {} if options.accept_only else timed(model, prompts, variants, options.repeats, length)
        for variant in variants:
            row: dict[str, Any] = {"tokens_each": tokens, "variant": variant.name, **counts[variant.name]}
            words = _words(row)
            if times:
                timing = times[variant.name]
                middle, low, high = ratio(times[variants[0].name], timing)
                speed = row["tokens"] / timing.median
                row |= {"seconds": timing.median, "seconds_quartiles": [timing.low, timing.high],
                        "tokens_per_second": speed, "speedup": middle, "speedup_quartiles": [low, high]}  # fmt: skip
                words = f"{speed:.1f} tokens a second, {middle:.2f} x bare ({low:.2f} to {high:.2f}); {words}"
            records.append(("generation", row))
            print(f"{tokens} tokens, {variant.name}: {words}", flush=True)
        write_records(options.out, records)


def timed(
    model: Any, prompts: list[Any], variants: list[Variant], repeats: int, length: dict[str, int]
) -> dict[str, Any]:
    """Seconds of all prompts together, by name."""
    by_name = {variant.name: variant for variant in variants}
    runs: dict[str, Any] = {}

    def attached(name: str) -> AbstractContextManager[Any]:
        runs[name] = by_name[name].attached(model)
        return runs[name]

    def generated(variant: Variant) -> Callable[[], Any]:
        return lambda: answers(model, prompts, replace(variant, draft=None), None, **length)

    runnable = {name: generated(variant) for name, variant in by_name.items()}
    return measure(runnable, repeats=repeats, device=model.device, around=attached)


def _words(row: dict[str, Any]) -> str:
    if not row["drafted"]:
        return f"{row['tokens']} tokens"
    share = f"{row['accepted']} of {row['drafted']} guesses accepted ({row['acceptance']:.0%})"
    return f"{row['tokens']} tokens, {share}, {row['checks']} checks"


if __name__ == "__main__":
    main()
