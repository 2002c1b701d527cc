"""A training by transformers' Trainer under progress, and its records.jsonl: EAS, twigs and tuning end alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["recorded_training"]


def recorded_training(
    command: str,
    options: Any,
    model: Any,
    facts: Mapping[str, Any],
    train: Callable[[Callable[[int, int], None]], Any],
    save: Callable[[Any], object] = lambda found: None,
) -> Any | None:
    """What `train` left; None in all but the first of several processes, which have nothing to write.

    Args:
        command: as records call it.
        options: the command's, with `model`, `data`, `seed` and `out`.
        facts: what the training depends on.
        train: gets what is called with (steps done, steps of the run), and leaves `summary` and `history`.
        save: writes the result into `out`, before its records.
    """
    from ..core.processes import started
    from ..core.record import write_records
    from ..evaluation.header import run_header
    from .progress import progress

    header = run_header(command, model, options.data, options, options.seed, options.model, facts)
    with progress("steps of the training", None) as steps:
        found = train(steps.reach)
    if not started().is_first:
        return None
    save(found)
    training = {**found.summary, "history": found.history}
    write_records(options.out / "records.jsonl", [("run", header), ("training", training)])
    return found
