"""`lookaway bench`: is saved work saved time? And what do the engine and the gates cost themselves?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..evaluation.speed import SpeedRow


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Measure prefill, first token and decoding with and without a policy, alternating in one process."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    policy: str | None = None
    """Folder, hub id or YAML file of a policy, or several joined by commas: one after another (`la.chain`). Without it
    the default model's own gates, or none for other models."""
    exits: tuple[int, ...] = ()
    """Fixed exit layers to time; default: about 1/8, 1/4, 1/2 and 3/4 of the depth."""
    data: str = "scenes"
    """Where the timed sample comes from (the first question with an image)."""
    batch_size: int = 1
    """Rows of the batch, all of them the timed sample."""
    new_tokens: int = 16
    """Tokens generated for the decode part."""
    repeats: int = 30
    """Measured rounds; every variant runs once per round."""
    dtype: str | None = None
    """float32, bfloat16, float16; default: float32 on a CPU, the checkpoint's own elsewhere."""
    attention: str | None = None
    """sdpa, eager, flash_attention_2; default: transformers' choice."""
    out: Path = Path("out/bench")
    """Folder of records.jsonl, which every run writes anew."""
    allow_other_model: bool = False
    """Use the policy although it was made for another model (other weights); the records say so."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.errors import DataError
    from ..core.provenance import provenance, start_anew
    from ..core.record import RecordWriter
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..evaluation.speed import measure_speed
    from ..models.loading import load_model
    from .common import choose_policy, fit_to
    from .progress import progress

    model, processor = load_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        attention=options.attention,
        **options.published,
    )
    depth = anatomy_of(model).num_layers
    policy, other = None, list[str]()
    if options.policy is not None or options.model.startswith("lookaway-mini"):
        policy = choose_policy(options.model, options.policy, None, options.allow_other_model)
        policy, other = fit_to(model, policy, options.allow_other_model)
    samples = [s for s in load_samples(options.data, limit=50) if s.images]
    if not samples:
        raise DataError(f"{options.data} has no question with an image to time.")
    exits = options.exits or tuple(sorted({max(1, round(depth * part)) for part in (1 / 8, 1 / 4, 1 / 2, 3 / 4)}))
    facts = provenance(model=model, processor=processor, policy=policy, samples=samples[:1], options=options)
    header = run_header("bench", model, options.data, options, 0, options.model, facts, other)
    start_anew(options.out / "records.jsonl")  # seconds of another policy or another day are not this run's
    with RecordWriter(options.out / "records.jsonl") as writer:
        writer.write("run", **header)
        with progress("timing", 3) as advance:
            rows = measure_speed(
                model, processor, samples[0], exits=exits, policy=policy, batch_size=options.batch_size,
                new_tokens=options.new_tokens, repeats=options.repeats, writer=writer, progress=advance,
            )  # fmt: skip
    show(rows)
    return {"timings": [vars(row) for row in rows], "records": str(writer.path)}


def show(rows: list[SpeedRow]) -> None:
    """One line a variant and part."""
    from rich.table import Table

    from .common import plain_console

    table = Table(
        "variant",
        "part",
        "ms",
        "bare ms",
        "speed-up",
        "quartiles",
        "implied",
        "measured / implied",
        "by FLOPs",
        box=None,
    )
    for row in rows:
        low, high = row.speedup_quartiles
        implied = ("–", "–", "–")
        if row.implied is not None:
            implied = (f"{row.implied:.2f}", f"{row.efficiency:.0%}", f"{row.implied_flops:.2f}")
        table.add_row(row.variant, row.part, f"{1000 * row.seconds:.1f}", f"{1000 * row.baseline_seconds:.1f}",
                      f"{row.speedup:.3f}", f"{low:.3f} to {high:.3f}", *implied)  # fmt: skip
    plain_console().print(table)
