"""`lookaway bench`: is saved work saved time? And what do the engine and the gates cost themselves?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import SettingsError
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..evaluation.speed import SpeedRow


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Measure prefill, first token and decoding with and without policies, alternating in one process."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    policy: tuple[str, ...] = ()
    """Folder, hub id or YAML file of a policy; may be given several times, and all are timed in turns. Several joined
    by commas are one policy, one after another (`la.chain`). Without it the default model's own gates, or none for
    other models."""
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

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise SettingsError(f"--repeats must be at least 1, not {self.repeats}.")


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.decision import Policy
    from ..core.errors import DataError
    from ..core.provenance import policy_facts, provenance, start_anew
    from ..core.record import RecordWriter
    from ..data import GENERATED, load_samples
    from ..evaluation.header import run_header
    from ..evaluation.speed import measure_speed
    from ..models.loading import load_model
    from .common import choose_policy, fit_to
    from .progress import progress
    from .settings import tell_settings

    model, processor = load_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        attention=options.attention,
        **options.published,
    )
    tell_settings(model, options.batch_size)
    depth = anatomy_of(model).num_layers
    policies, other = dict[str, Policy](), list[str]()
    given: tuple[str | None, ...] = options.policy or ((None,) if options.model.startswith("lookaway-mini") else ())
    for path, name in zip(given, names_of(options.policy) or ["policy"], strict=False):
        policy = choose_policy(options.model, path, None, options.allow_other_model)
        policies[name], found = fit_to(model, policy, options.allow_other_model)
        other += found
    split = "test" if options.data in GENERATED else "all"  # one question is timed: what split it is of does not matter
    samples = [s for s in load_samples(options.data, split, limit=50) if s.images]
    if not samples:
        raise DataError(f"{options.data} has no question with an image to time.")
    exits = options.exits or tuple(sorted({max(1, round(depth * part)) for part in (1 / 8, 1 / 4, 1 / 2, 3 / 4)}))
    facts = provenance(
        model=model, processor=processor, samples=samples[:1], options=options,
        policies=[policy_facts(policy) for policy in policies.values()],
    )  # fmt: skip
    header = run_header("bench", model, options.data, options, 0, options.model, facts, other)
    start_anew(options.out / "records.jsonl")  # seconds of another policy or another day are not this run's
    with RecordWriter(options.out / "records.jsonl") as writer:
        writer.write("run", **header)
        with progress("timing", 3) as advance:
            rows = measure_speed(
                model, processor, samples[0], exits=exits, policies=policies, batch_size=options.batch_size,
                new_tokens=options.new_tokens, repeats=options.repeats, writer=writer, progress=advance,
            )  # fmt: skip
    show(rows)
    return {"timings": [vars(row) for row in rows], "records": str(writer.path)}


def names_of(given: Sequence[str]) -> list[str]:
    """What records and table call each of the policies: 'policy' where there is one, else the last part of each path,
    or the whole where two end alike.

    Raises:
        SettingsError: one is given twice.
    """
    from .common import short_names

    return ["policy"] if len(given) == 1 else short_names(given, taken=("idle",))


def show(rows: list[SpeedRow]) -> None:
    """One table a part, one line a variant."""
    from .tables import show_table

    for part in dict.fromkeys(row.part for row in rows):
        timed = [row for row in rows if row.part == part]
        cells = {
            "variant": [row.variant for row in timed],
            "visual tokens": [row.tokens_text for row in timed],
            "ms": [f"{1000 * row.seconds:.1f}" for row in timed],
            "speed-up": [f"{row.speedup:.2f}" for row in timed],
            "quartiles": ["{:.2f}–{:.2f}".format(*row.speedup_quartiles) for row in timed],
            "implied": ["–" if row.implied is None else f"{row.implied:.2f}" for row in timed],
            "of implied": ["–" if row.efficiency is None else f"{row.efficiency:.0%}" for row in timed],
            "by FLOPs": ["–" if row.implied_flops is None else f"{row.implied_flops:.2f}" for row in timed],
        }
        if all(row.implied_flops is None for row in timed):
            cells = {name: column for name, column in cells.items() if name in list(cells)[:5]}
        title = f"{part}, {1000 * timed[0].baseline_seconds:.1f} ms without a policy"
        show_table(list(cells), list(zip(*cells.values(), strict=True)), title=title, texts=("variant",))
