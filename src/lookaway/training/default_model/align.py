"""Stage 3, the model answers: LoRA on the language model and the projector, on packed lessons.

Two ways to spend the steps: plain, and exit-aware, where in a share of the steps the visual tokens really leave before
a random layer, so the model learns to read its image early and to answer from what it has read. The exit-aware phase
goes on from the plain weights. A random subset of the visual tokens is shown in most steps: cheaper, and the model
learns not to lean on any one patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ...core.random_state import seeded
from ...data import scenes
from .hardware import autocast
from .lessons import lesson
from .loop import optimise
from .packed_run import embed, logits_at, run_layers
from .packing import VISUAL_TOKENS, Tokens, choose_visual, pack
from .tower import features

__all__ = ["AlignOptions", "Students", "align", "with_lora"]


@dataclass(frozen=True)
class AlignOptions:
    """One phase of alignment."""

    steps: int = 1000
    """Steps of the learning-rate schedule."""
    stop: int | None = None
    """Steps really made, where fewer."""
    images: int = 3
    """Pictures a step."""
    columns: int = 170
    """Text tokens per image, at most."""
    asked: int = 16
    """Questions a picture at most."""
    described: float = 0.0
    """Share of a scene's questions that ask to describe a thing; above 0, names in questions are predicted too."""
    pairs: float = 1.0
    """Factor on the weights of the families about two things; above 1, 'where is ...?' is asked too."""
    skew: float = 0.0
    """Share of 'smaller', 'right of' and 'below' left out at first; falls to 0 at the phase's end."""
    easy: float = 0.25
    """Share of easy-VQA pictures; the others are scenes."""
    visual: tuple[int, int] = (44, 92)
    """Visual tokens shown in a step, drawn from this range."""
    all_visual: float = 0.1
    """Share of steps that show all visual tokens."""
    exit_share: float = 0.0
    """Share of steps in which the visual tokens leave before a random layer."""
    exit_layers: tuple[int, int] = (2, 29)
    """First and last layer before which they may leave."""
    progress: tuple[float, float] = (0.0, 1.0)
    """Where in the curriculum this phase begins and ends."""
    lr: float = 8e-4
    """Peak learning rate of LoRA."""
    projector_lr: float = 3e-4
    """Peak learning rate of the projector."""
    closing: float = 0.15
    """Share of questions that also train the end of the answer."""
    seed: int = 0
    """Seed of all lessons."""


class Students(nn.Module):
    """What alignment trains and what it reads: language model with LoRA, projector, frozen tower."""

    def __init__(self, language: Any, projector: nn.Module, tower: nn.Module) -> None:
        super().__init__()
        self.language, self.projector, self.tower = language, projector, tower


def with_lora(language: Any, rank: int = 16, alpha: int = 32, seed: int = 0) -> Any:
    """peft's LoRA on every linear of the decoder layers."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM")
    with seeded(seed, next(language.parameters()).device):
        return get_peft_model(language, config)


def _by_family(hits: Sequence[float], families: Sequence[str]) -> dict[str, float]:
    """Right answers (+) and questions (#) per family; the log divides their means."""
    found: dict[str, float] = {}
    for hit, family in zip(hits, families, strict=True):
        found[f"{family}+"] = found.get(f"{family}+", 0.0) + hit
        found[f"{family}#"] = found.get(f"{family}#", 0.0) + 1.0
    return found


def align(
    students: Students, tokens: Tokens, options: AlignOptions, folder: Path, report: Callable[[str], object],
    on_save: Callable[[int], object] = lambda step: None, save_every: float = 240.0,
) -> None:  # fmt: skip
    """Run one phase; resumes from its folder."""
    language, o = students.language, options
    device = next(students.projector.parameters()).device

    def step_fn(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = scenes.stream("align", o.seed, step)
        progress = o.progress[0] + (o.progress[1] - o.progress[0]) * step / o.steps
        skew = o.skew * (1 - step / (o.stop or o.steps))
        lessons = [lesson(rng, progress, o.easy, o.asked, o.described, o.pairs, skew) for _ in range(o.images)]
        keep = VISUAL_TOKENS if rng.random() < o.all_visual else int(rng.integers(o.visual[0], o.visual[1] + 1))
        leaves = int(rng.integers(o.exit_layers[0], o.exit_layers[1] + 1)) if rng.random() < o.exit_share else None
        chosen = np.stack([choose_visual(rng, one.shown, keep) for one in lessons])
        asked, named = [one.questions for one in lessons], o.described > 0
        p = pack(tokens, asked, chosen, budget=o.columns, closing=o.closing, rng=rng, phrases=named).to(device)
        shown = torch.from_numpy(np.stack([one.pixels for one in lessons])).to(device)
        with torch.no_grad():
            seen = features(students.tower, shown)
        with autocast(device):
            hidden = run_layers(language, embed(language, students.projector(seen), p), p, exit_at=leaves)
            logits = logits_at(language, hidden, p).float()
        each = nn.functional.cross_entropy(logits, p.labels, reduction="none")
        loss = (each * p.weight).sum() / p.weight.sum()
        hit = (logits.detach().argmax(-1) == p.labels).float()
        numbers = {
            "right": float(hit[p.first].mean()),
            "questions": len(p.asked),
            "tokens": p.mask.shape[-1] * o.images,
        }
        return loss, {**numbers, **_by_family(hit[p.first].tolist(), [q.family for _, q in p.asked])}

    optimise(
        {"language": language, "projector": students.projector},
        {"language": o.lr, "projector": o.projector_lr},
        step_fn,
        steps=o.steps,
        stop=o.stop,
        folder=folder,
        warmup=30,
        weight_decay=0.0,
        save_every=save_every,
        report=report,
        on_save=on_save,
    )
