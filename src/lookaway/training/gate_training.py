"""Exit gates from an exit table: seconds to minutes, no model runs here.

Published (DyVTE, arXiv 2411.19628, Eq. 6): binary cross-entropy on 'an exit here is good', one random layer a step.
Here a step learns all candidate layers of its samples. A policy exits at the FIRST gate that fires, so a false alarm at
an early layer costs an answer that no later gate can save: hence a threshold chosen by simulation of the whole cascade,
never by the accuracy of single gates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.exit_table import ExitTable, labels
from ..core.random_state import seeded
from ..modules.gates import ExitGates
from ..policies.exit_simulation import exit_probabilities, simulate
from .gate_options import GateOptions

__all__ = ["GateRun", "choose_threshold", "exit_labels", "split_by_sample", "train_gates"]


@dataclass(frozen=True)
class GateRun:
    """Trained gates and how they came about."""

    gates: ExitGates
    threshold: float
    """Chosen on the validation samples for `GateOptions.agreement`; calibration replaces it by one with a guarantee."""
    history: list[dict[str, float]]
    """Per epoch: epoch, loss, validation_loss."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Options, sample counts, share of good exits a layer, warnings: plain values for records and the saved policy."""


def exit_labels(table: ExitTable, options: GateOptions) -> Tensor:
    """Where an exit is good by the options' criterion, bool [N, C]."""
    options = options.filled()
    assert options.absolute is not None
    good = (
        table.agree.clone() if options.criterion == "agreement" else labels(table, options.relative, options.absolute)
    )
    if options.monotone:
        good = good.flip(1).int().cumprod(1).flip(1).bool()
    return good


def split_by_sample(
    ids: Sequence[str], share: float, seed: int, images: Mapping[str, str] | None = None
) -> tuple[Tensor, Tensor]:
    """Masks bool [N] of the training and the validation samples, by a stable hash.

    Args:
        ids: sample ids.
        share: of the validation part.
        images: sample id -> name of its image: questions of one image stay together (`exit_labels.image_names`).
    """
    names = [(images or {}).get(name, name) for name in ids]
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    held = torch.tensor([int.from_bytes(d[:4], "big") / 2**32 < share for d in digests], dtype=torch.bool)
    return ~held, held


def train_gates(
    table: ExitTable,
    options: GateOptions | None = None,
    images: Mapping[str, str] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> GateRun:
    """Train gates on a table; `images` (sample id -> image) keeps the questions of an image on one side of the split.

    `progress` is called after each epoch with the number done and the most there will be.

    Raises:
        DataError: the table is empty, holds NaN features, or has none of the layers asked for.
    """
    options = (options or GateOptions()).filled()
    _check(table)
    table = table.at_layers(options.layers) if options.layers else table
    table = table.at_layers([k for k in table.layers if k >= options.min_layer])
    train, held = split_by_sample(table.ids, options.validation, options.seed, images)
    if not bool(train.any()) or (bool(held.any()) and int(held.sum()) < 5):
        train, held = torch.ones_like(train), torch.zeros_like(held)  # too few to hold any back
    good = exit_labels(table, options)
    x, y = table.features[train], good[train].float()
    with seeded(options.seed):
        gates = _new_gates(x.shape[-1] // 2, table.layers, options)
        gates.fit_norm(x)
        held_x, held_y = table.features[held], good[held].float()
        history = _fit(gates, x, y, held_x, held_y, options, progress)
    judged = table.subset(held if bool(held.any()) else train)
    threshold, found = choose_threshold(gates, judged, options.agreement, options.min_layer)
    summary = {
        "options": asdict(options),
        "samples": int(train.sum()),
        "validation_samples": int(held.sum()),
        "target": table.target,
        "good_share": dict(zip(map(str, table.layers), y.mean(0).tolist(), strict=True)),
        "warnings": _warnings(y),
        "parameters": sum(weight.numel() for weight in gates.parameters()),
        "epochs": len(history),
        "threshold": threshold,
        **{f"validation_{name}": value for name, value in found.items()},
    }
    return GateRun(gates.eval(), threshold, history, summary)


def choose_threshold(
    gates: ExitGates, table: ExitTable, agreement: float, min_layer: int = 1
) -> tuple[float, dict[str, float]]:
    """The boldest threshold at which answers agree with the full model's at least so often, by simulation.

    Returns:
        The threshold (1.0, never exit, where none is good enough) and what it does on the table: `agreement`, and
        `mean_exit` counting a sample that never exits as one layer behind the last candidate.
    """
    p = exit_probabilities(gates, table)
    best: tuple[float, dict[str, float]] | None = None
    for threshold in (*torch.linspace(0.02, 0.98, 49).tolist(), 0.99, 0.995, 0.999, 1.0):
        exits = simulate(gates, table, threshold, min_layer, probabilities=p)
        found = what_happens(table, exits)
        if found["agreement"] >= agreement and (best is None or found["mean_exit"] < best[1]["mean_exit"]):
            best = (round(threshold, 4), found)
    assert best is not None  # threshold 1.0 always agrees
    return best


def what_happens(table: ExitTable, exits: Tensor) -> dict[str, float]:
    """Agreement with the full model and mean exit layer of exits int64 [N] as `simulate` gives them."""
    agree = torch.cat([table.agree, torch.ones(len(table), 1, dtype=torch.bool)], dim=1)
    layers = torch.tensor([*table.layers, table.layers[-1] + 1], dtype=torch.float32)
    rows = torch.arange(len(table))
    return {"agreement": float(agree[rows, exits].float().mean()), "mean_exit": float(layers[exits].mean())}


def _new_gates(hidden_size: int, layers: Sequence[int], o: GateOptions) -> ExitGates:
    assert o.width is not None
    assert o.shared is not None
    assert o.norm is not None
    assert o.two_way is not None
    return ExitGates(hidden_size, layers, o.width, o.shared, o.norm, o.two_way)


def _fit(
    gates: ExitGates,
    x: Tensor,
    y: Tensor,
    held_x: Tensor,
    held_y: Tensor,
    o: GateOptions,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[dict[str, float]]:
    """Train in place; the weights of the epoch with the best validation loss stay."""
    assert o.lr is not None
    assert o.weight_decay is not None
    assert o.epochs is not None
    weights = _class_weights(y) if o.balance else torch.ones(2, y.shape[1])
    steps = o.epochs * -(-len(x) // o.batch_size)
    optimiser = torch.optim.AdamW(gates.parameters(), lr=o.lr, weight_decay=o.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    history: list[dict[str, float]] = []
    best, best_weights, since = float("inf"), None, 0
    for epoch in range(1, o.epochs + 1):
        losses = []
        for rows in torch.randperm(len(x)).split(o.batch_size):
            if o.one_random_layer:
                c = int(torch.randint(y.shape[1], ()))
                logits = gates(x[rows, c], gates.layers[c])[:, None]
                loss = _bce(logits, y[rows, c : c + 1], weights[:, c : c + 1])
            else:
                loss = _bce(gates.all_layers(x[rows]), y[rows], weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        row = {"epoch": float(epoch), "loss": sum(losses) / len(losses)}
        if len(held_x):
            with torch.no_grad():
                row["validation_loss"] = float(_bce(gates.all_layers(held_x), held_y, weights))
            if row["validation_loss"] < best:
                best, since = row["validation_loss"], 0
                best_weights = {name: value.clone() for name, value in gates.state_dict().items()}
            else:
                since += 1
        history.append(row)
        progress(epoch, o.epochs)
        if o.patience and since >= o.patience:
            break
    if best_weights is not None:
        gates.load_state_dict(best_weights)
    return history


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: warm-up over 3 % of the steps, then half a cosine."""
    warm = max(1, round(0.03 * steps))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _bce(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy [N, C] with weights [2, C] of bad and good exits."""
    weight = torch.where(y > 0.5, weights[1], weights[0])
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weight)


def _class_weights(y: Tensor) -> Tensor:
    """Weights [2, C] that give bad and good exits the same say at each layer; 1 where a layer has one kind only."""
    good = y.mean(0)
    weights = 0.5 / torch.stack([1 - good, good]).clamp(min=0.02)
    return torch.where((good == 0) | (good == 1), torch.ones_like(weights), weights)


def _warnings(y: Tensor) -> list[str]:
    if bool((y == 1).all()):
        return ["Every exit of every sample is good: the gates can only learn to exit at once (ExitAt does the same)."]
    if bool((y == 0).all()):
        return ["No exit of any sample is good: the gates can only learn never to exit. Loosen relative or absolute."]
    return []


def _check(table: ExitTable) -> None:
    if not len(table):
        raise DataError("The exit table is empty: there is nothing to train gates on. Give more --data.")
    bad = ~table.features.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        names = [table.ids[i] for i in bad.nonzero().flatten()[:3].tolist()]
        raise DataError(
            f"{int(bad.sum())} samples have NaN or infinite features (the first: {', '.join(names)}). Train "
            "again with --features float32, run the model in float32 or bfloat16, or leave these samples out."
        )
