"""Exit gates from training to a report: train, calibrate, evaluate on held-out questions, time (`make demo` of 0.1).

    python benchmarks/gates_end_to_end.py --model lookaway-mini-plain --seed 1

It goes through the commands `lookaway train`, `calibrate`, `eval` and `bench`; flags are the fields of `Options` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything once: train exit gates, calibrate, evaluate with and without on held-out questions, time, report."""

    model: str = "lookaway-mini"
    """lookaway-mini, lookaway-mini-plain, or any LLaVA folder or hub id."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md)."""
    out: Path = Path("out/gates")
    """Folder of the gates, the records and report.html; finished steps are not repeated."""
    train: int = 320
    """Questions to train the gates on."""
    calibration: int = 160
    """Questions for the bound on changed answers, one per image."""
    test: int = 150
    """Held-out questions to report on."""
    layers: tuple[int, ...] = ()
    """Candidate exit layers of the gates; default: 1 to 4, then every second one, at half the cost."""
    epsilon: float = 0.03
    """The bound: at most this share of answers differs from the full model's ..."""
    delta: float = 0.05
    """... with confidence 1 - delta."""
    repeats: int = 8
    """Rounds of timing."""
    exits: tuple[int, ...] = ()
    """Fixed exit layers to time; default: about 1/8, 1/4, 1/2 and 3/4 of the depth."""
    seed: int = 0
    """Seed of everything."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from lookaway.cli import bench, calibrate, eval, train
    from lookaway.cli.common import plain_console, tell
    from lookaway.core.errors import SettingsError
    from lookaway.reports.pages.page import write_report

    o, say = options, plain_console(stderr=True).rule
    gates, published = o.out / "gates", o.out / "published-preset"
    _claim(o, [gates, published, o.out / "gates-calibrated", o.out / "eval"])
    common: dict[str, Any] = {"model": o.model, "data": o.data, "device": o.device}

    layers = o.layers or default_layers(o.model)

    say("1 of 4: exit gates learn from the model's own answers")
    for folder, preset in ((gates, "light"), (published, "published")):
        if not (folder / "config.json").exists():
            train.run(
                train.Options(**common, preset=preset, limit=o.train, layers=layers, out=folder, seed=o.seed)  # type: ignore[arg-type]
            )

    say("2 of 4: the guarantee")
    calibrated = o.out / "gates-calibrated"
    try:
        if not (calibrated / "config.json").exists():
            calibrate.run(calibrate.Options(**common, policy=str(gates), limit=o.calibration, epsilon=o.epsilon,
                                            delta=o.delta, seed=o.seed, out=calibrated))  # fmt: skip
        policy = calibrated
    except SettingsError as error:
        tell(f"No guarantee: {error} The demo goes on with the gates as they were trained.")
        policy = gates

    say("3 of 4: with and without, on held-out questions")
    table = eval.run(eval.Options(**common, policy=str(policy), limit=o.test, compare=(str(published),), seed=o.seed,
                                  out=o.out / "eval", baselines=False))  # fmt: skip

    say("4 of 4: seconds")
    timed = bench.run(
        bench.Options(**common, policy=(str(policy),), exits=o.exits, repeats=o.repeats, out=o.out / "bench")
    )

    folders = dict.fromkeys([gates, policy, o.out / "eval", o.out / "bench"])
    records = [folder / "records.jsonl" for folder in folders]
    page = write_report([str(path) for path in records], o.out / "report.html")
    plain_console().print(f"report: {page}", style="bold")
    return {"report": str(page), "summary": table["summary"], "timings": timed["timings"]}


def _claim(o: Options, leftovers: list[Path]) -> None:
    """What is in --out already is used only if it is of the same model, data and options.

    Raises:
        StaleResults: it is not.
    """
    from lookaway.core.earlier_results import claim
    from lookaway.core.provenance import provenance
    from lookaway.data import load_samples
    from lookaway.models.loading import load_model

    model, processor = load_model(o.model, device=o.device)
    parts = (("train", o.train, False), ("calibration", o.calibration, True), ("test", o.test, False))
    samples = [
        sample
        for split, count, distinct in parts  # the very samples of each step: one question an image to calibrate on
        for sample in load_samples(o.data, split, count, o.seed, distinct_images=distinct)
    ]
    facts = provenance(model=model, processor=processor, samples=samples, options=o, free=("repeats", "exits"))
    claim(o.out, facts, o.fresh, leftovers)


def default_layers(model: str) -> tuple[int, ...]:
    """Layers 1 to 4 and every second one after them: exits are worth most, and decided most finely, early."""
    from lookaway.models.loading import load_config

    depth = load_config(model).get_text_config().num_hidden_layers
    return tuple(k for k in range(1, depth) if k <= 4 or k % 2 == 0)


if __name__ == "__main__":
    from lookaway.cli.options import build_command

    build_command("gates", Options, run, lambda values, path: None)()
