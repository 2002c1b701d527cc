"""One training loop for all stages: warm-up and cosine, clipping, a log line a while, checkpoints, exact resume.

Every step draws from a stream named by (seed, stage, step) alone, so a run that was killed and taken up again at its
last checkpoint ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.files import atomic_path

__all__ = ["optimise"]

Step = Callable[[int], tuple[Tensor, Mapping[str, float]]]


def rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def optimise(
    modules: Mapping[str, nn.Module],
    rates: Mapping[str, float],
    step_fn: Step,
    *,
    steps: int,
    stop: int | None = None,
    folder: Path,
    warmup: int = 50,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    save_every: float = 120.0,
    log_every: int = 20,
    report: Callable[[str], Any] = lambda line: None,
    on_save: Callable[[int], Any] = lambda step: None,
) -> None:
    """Train the parameters of `modules` that require gradients; `step_fn(step)` answers (loss, numbers to log);
    numbers named `x+` and `x#` are logged as the share x = sum of + / sum of #.

    `stop` ends before the schedule (`steps`) does. Writes `checkpoint.pt` about every `save_every` seconds and
    `log.jsonl`; resumes from the checkpoint if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = {n: [p for p in m.parameters() if p.requires_grad] for n, m in modules.items()}
    optimiser = torch.optim.AdamW(
        [{"params": p, "lr": rates[n], "peak": rates[n]} for n, p in groups.items()],
        weight_decay=weight_decay,
        betas=(0.9, 0.98),
    )
    trained = [p for ps in groups.values() for p in ps]
    checkpoint, first, last = folder / "checkpoint.pt", 0, min(steps, stop or steps)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for p, saved in zip(trained, state["parameters"], strict=True):
            p.data.copy_(saved)
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]

    def save(step: int) -> None:
        with atomic_path(checkpoint) as path:
            torch.save(
                {"parameters": [p.data for p in trained], "optimiser": optimiser.state_dict(), "step": step}, path
            )
        on_save(step)

    saved = began = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(first, last):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate(step, steps, warmup)
        loss, numbers = step_fn(step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip)
        if torch.isfinite(norm):
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for name, value in {"loss": float(loss.detach()), "norm": float(norm), **numbers}.items():
            sums[name] = sums.get(name, 0.0) + value / log_every
        if (step + 1) % log_every == 0:
            shares = {n[:-1]: round(v / sums[n[:-1] + "#"], 3) for n, v in sums.items() if n.endswith("+")}
            means = {n: round(v, 4) for n, v in sums.items() if n[-1] not in "+#"}
            line = json.dumps(
                {"step": step + 1, "of": steps, "seconds": round(time.monotonic() - began, 1), **means, **shares}
            )
            with (folder / "log.jsonl").open("a") as log:
                log.write(line + "\n")
            report(line)
            sums = {}
        if time.monotonic() - saved > save_every:
            save(step + 1)
            saved = time.monotonic()
    if first < last:
        save(last)
