"""`lookaway demo`: one picture answered with few visual tokens, then a small `lookaway fit`, and its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import Sample, Trace


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask one picture, find and certify the cheapest policy that keeps the answers, time it, and draw the report."""

    model: str = "lookaway-mini"
    """lookaway-mini, lookaway-mini-plain, or any model folder or hub id."""
    data: str = "mini"
    """mini, scenes, easy-vqa, mini-hard, or a file or folder of your own (docs/data.md)."""
    out: Path = Path("out/demo")
    """Folder of the picture, the fit and report.html; an interrupted run goes on."""
    limit: int = 100
    """Questions to search on, and as many others to certify on, one an image."""
    held_out: int = 40
    """Further questions, on which other methods stand beside the result at its cost."""
    methods: tuple[str, ...] = ("reduction", "second-look")
    """Kinds of policies that are tried (`lookaway fit --methods`)."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
    """Shares of the visual tokens that they keep."""
    epsilon: float = 0.05
    """The certificate: at most this share of answers differs from the full model's ..."""
    delta: float = 0.05
    """... with confidence 1 - delta."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    repeats: int = 8
    """Rounds of timing; 0: no timing."""
    seed: int = 0
    """Seed of everything."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..reports.pages.page import write_report
    from . import bench, fit
    from .common import plain_console

    o, say, console = options, plain_console(stderr=True).rule, plain_console()
    say("1 of 3: a picture, asked and answered")
    first = ask(o)
    for line in first["lines"]:
        console.print(line, soft_wrap=True)

    say("2 of 3: the cheapest policy that keeps the answers, found and certified")
    common: dict[str, Any] = {"model": o.model, "data": o.data, "device": o.device}
    found = fit.run(
        fit.Options(
            **common, limit=o.limit, held_out=o.held_out, methods=o.methods, shares=o.shares, epsilon=o.epsilon,
            delta=o.delta, max_new_tokens=o.max_new_tokens, seed=o.seed, fresh=o.fresh, out=o.out / "fit",
        )
    )  # fmt: skip
    records = [o.out / "fit" / "records.jsonl", *([Path(found["held_out"])] if found["held_out"] else [])]

    timed = None
    if o.repeats:
        say("3 of 3: seconds")
        policy = (str(o.out / "fit" / "policy"),)
        exits = (max(1, first["num_layers"] // 2),)
        timed = bench.run(bench.Options(**common, policy=policy, exits=exits, repeats=o.repeats, out=o.out / "bench"))
        records.append(o.out / "bench" / "records.jsonl")
    page = write_report(list(records), o.out / "report.html")
    console.print(f"report: {page}", style="bold")
    return {"report": str(page), "first": first, "fit": found, "timings": timed and timed["timings"]}


def ask(options: Options) -> dict[str, Any]:
    """One picture of the data, answered under a policy and without one; `lines` says what happened."""
    import torch

    import lookaway as la

    from ..models.encoding import encode, open_image
    from ..models.loading import load_model
    from .common import fit_to

    sample = first_sample(options)
    model, processor = load_model(options.model, device=options.device)
    policy, folder = first_policy(options.model, la.anatomy(model).first_prunable_layer)
    policy, _ = fit_to(model, policy, allow_other_model=False)
    inputs = encode(processor, [sample], device=model.device).inputs
    width = inputs["input_ids"].shape[1]

    def answer() -> str:
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=options.max_new_tokens)
        return str(processor.batch_decode(ids[:, width:], skip_special_tokens=True)[0]).strip()

    with la.attach(model, policy) as attached:
        said = answer()
    without = answer()
    picture = options.out / "picture.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    open_image(sample.images[0]).save(picture)
    same = "the same as with all tokens" if said == without else f"with all tokens: {without}"
    lines = [
        f"asked: {sample.question} ({picture})",
        f"answered: {said} ({same})",
        what_happened(attached.trace),
        f"the policy: {folder}, certified (certificate.json)" if folder else
        "the policy: a second look with fixed settings, not certified here; the next step finds one and certifies it",
    ]  # fmt: skip
    return {"lines": lines, "answer": said, "answer_without": without, "num_layers": attached.trace.shape.num_layers}


def first_policy(model: str, first_prunable: int) -> tuple[Policy, Path | None]:
    """The fitted policy that ships with a default model, and its folder; else a second look with the settings of
    configs/second-look.yaml, which nothing certifies."""
    import lookaway as la

    from ..models.mini.model import shipped_policy

    folder = shipped_policy(model) if model.startswith("lookaway-mini") else None
    if folder is not None:
        return la.load(folder), folder
    layer = max(2, first_prunable)
    return la.SecondLook(la.FastV(layer, 0.9), la.FastV(layer, 0.5), 0.95), None


def what_happened(trace: Trace) -> str:
    """'kept 20 of 196 visual tokens from layer 2 on, no second look needed: 28 % of the prefill FLOPs'."""
    (whole,), counts = trace.initial_visual_tokens, [layer[0] for layer in trace.visual_tokens]
    fewest = next(layer for layer, count in enumerate(counts) if count == counts[-1])
    again = "unsure at first, so it looked again" if trace.looked_again[0] else "no second look needed"
    cost = f"{trace.cost().flops_share:.0%} of the prefill FLOPs"
    return f"kept {counts[-1]} of {whole} visual tokens from layer {fewest} on, {again}: {cost}"


def first_sample(options: Options) -> Sample:
    """A question with a picture that the fit will not use.

    Raises:
        DataError: the data has none.
    """
    from ..data import GENERATED, SEEN, load_samples

    split = SEEN if options.data in GENERATED else "test"
    sample = next((s for s in load_samples(options.data, split, 20, options.seed) if s.images), None)
    if sample is None:
        raise DataError(f"{options.data} has no question with an image in its split {split!r}.")
    return sample
