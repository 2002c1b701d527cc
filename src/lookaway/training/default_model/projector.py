"""Stage 2, the projector speaks: each patch is mapped onto words of the language model's own embedding table.

The target of a patch that shows a large red circle marked 7 in the top left is the sum of the (centred) embeddings of
those words; of a background patch, of 'background'. So the visual tokens enter the decoder in its own language, and
alignment has to teach where to look, not what the tokens mean. No language-model forward is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from .dense import ATTRIBUTES
from .loop import optimise
from .tower import batch, features

__all__ = ["fold_whitening", "train_projector", "word_targets"]


def word_targets(table: Tensor, tokenizer: Any) -> list[Tensor]:
    """For each attribute a table [names + 1, D] of centred embeddings; the last row (label -100) is zero.

    A word counts twice, as the question has it (' red') and as the answer begins ('red'), halved.
    """
    mean, tables = table.mean(0), []
    for attribute, names in ATTRIBUTES.items():
        rows = []
        for name in names:
            spaced, bare = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" " + name, name))
            row = (table[spaced[-1]] + table[bare[0]]) / 2 - mean
            rows.append(torch.zeros_like(mean) if (attribute, name) == ("symbol", "none") else row)
        tables.append(torch.stack([*rows, torch.zeros_like(mean)]))
    return tables


@torch.no_grad()
def fold_whitening(projector: LlavaMultiModalProjector, sample: Tensor) -> None:  # [N, Dv]
    """Fold per-feature mean and deviation into the first layer: without it a constant offset drowns what differs."""
    mean, std = sample.mean(0), sample.std(0).clamp_min(1e-3)
    first = projector.linear_1
    first.weight.div_(std)
    first.bias.sub_(first.weight @ mean)


def train_projector(
    tower: CLIPVisionModel, projector: LlavaMultiModalProjector, table: Tensor, tokenizer: Any, *, steps: int,
    images: int, easy: float, lr: float, seed: int, folder: Path, report: Callable[[str], object],
) -> None:  # fmt: skip
    """Regress the projector onto the words of each patch; logs the share of variance left unexplained."""
    table = table.detach()
    tables, mean = word_targets(table, tokenizer), table.mean(0)
    with torch.no_grad():
        shown = batch("align", seed + 1999, 0, 64, easy, (2, 9))[0].to(table.device)
        fold_whitening(projector, features(tower, shown).flatten(0, 1))

    def step_fn(step: int) -> tuple[Tensor, dict[str, float]]:
        shown, labels = (t.to(table.device) for t in batch("align", seed + 2000, step, images, easy, (2, 7)))
        with torch.no_grad():
            seen = features(tower, shown)
            target = mean + sum(t[labels[..., i].clamp_min(-1)] for i, t in enumerate(tables))
        made = projector(seen)
        thing = labels[..., 0] > 0
        error = (made - target).pow(2).mean(-1)
        spread = target[thing].var(0).mean()
        loss = (error[thing].mean() + 0.3 * error[~thing].mean()) / spread
        return loss, {"unexplained": float((error[thing].mean() / spread).detach())}

    optimise({"projector": projector}, {"projector": lr}, step_fn, steps=steps, folder=folder, report=report)
    nn.Module.requires_grad_(projector, True)
