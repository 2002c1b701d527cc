"""Stage 1, the tower sees: a CLIP-type vision transformer of our own, trained on labels of every patch.

112 px in patches of 8 are 14 x 14 = 196 visual tokens. Why not a ready tower: DINOv2's last layer is nearly
colour-blind and at 14 px a patch a written digit is lost; this one has 1.9 M parameters and knows what it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ...core.random_state import seeded
from ...data import easy_vqa, scenes
from .dense import ATTRIBUTES, IGNORE, PATCH, easy_labels, pixels, scene_labels
from .hardware import best_device
from .loop import optimise

__all__ = ["DenseHeads", "TowerOptions", "batch", "dense_accuracy", "features", "make_tower", "train_tower"]


@dataclass(frozen=True)
class Phase:
    """One phase of the tower's training."""

    steps: int
    """Steps of the learning-rate schedule."""
    stop: int
    """Steps really made."""
    images: int
    """Pictures a step."""
    easy: float
    """Share of easy-VQA pictures; the others are scenes."""
    lr: float
    """Peak learning rate."""
    things: tuple[int, int]
    """Fewest and most things of a scene."""
    bold: bool = True
    """Symbols as the generator draws them now; False: small and thin."""
    symbol_weight: float = 1.0
    """Weight of the symbol's loss; the others have 1."""


@dataclass(frozen=True)
class TowerOptions:
    """Shape and training of the vision tower."""

    width: int = 192
    """Hidden size."""
    layers: int = 5
    """Transformer layers."""
    phases: tuple[Phase, ...] = (
        Phase(steps=750, stop=430, images=48, easy=0.25, lr=1.5e-3, things=(4, 9), bold=False),
        Phase(steps=560, stop=560, images=32, easy=0.15, lr=1.2e-3, things=(5, 9), symbol_weight=3.0),
    )
    """One after the other: what things are, then what is written on them."""
    seed: int = 0
    """Seed of weights and pictures."""


def vision_config(width: int = 192, layers: int = 5) -> CLIPVisionConfig:
    """The tower's configuration in transformers' words."""
    return CLIPVisionConfig(hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
                            num_attention_heads=width // 32, image_size=scenes.PIXELS, patch_size=PATCH,
                            projection_dim=width, hidden_act="gelu")  # fmt: skip


def make_tower(options: TowerOptions) -> CLIPVisionModel:
    """A fresh tower, its weights drawn from torch's random state."""
    tower = CLIPVisionModel(vision_config(options.width, options.layers))
    for name, p in tower.named_parameters():  # CLIP's own initialisation is meant for 12 layers and large data
        if p.ndim == 2 and "embedding" not in name:
            nn.init.xavier_uniform_(p)
        elif "position_embedding" in name:
            nn.init.normal_(p, std=0.02)
        elif "patch_embedding" in name:
            nn.init.normal_(p, std=(3 * PATCH**2) ** -0.5)
    return tower


class DenseHeads(nn.Module):
    """One linear reading of every attribute from a patch's feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(len(names) for names in ATTRIBUTES.values()))

    def forward(self, patches: Tensor) -> dict[str, Tensor]:  # [B, 196, D] -> [B, 196, names] each
        parts = self.read(self.norm(patches)).split([len(names) for names in ATTRIBUTES.values()], dim=-1)
        return dict(zip(ATTRIBUTES, parts, strict=True))


def features(tower: CLIPVisionModel, images: Tensor) -> Tensor:  # [B, 3, 112, 112] -> [B, 196, D]
    """What LLaVA takes from the tower: the last layer's hidden states without the class token."""
    return tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]


def batch(split: str, seed: int, step: int, n: int, easy: float, things: tuple[int, int],
          bold: bool = True) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pictures [n, 3, 112, 112] and labels [n, 196, 6] of one step."""
    rng = scenes.stream(split, seed, step)
    _, low, high = easy_vqa.RANGES[split]
    shown, labels = [], []
    for _ in range(n):
        if rng.random() < easy:
            image = int(rng.integers(low, high))
            picture = easy_vqa.picture(split, image)
            shown.append(pixels(picture))
            labels.append(easy_labels(split, image, picture))
        else:
            scene = scenes.make_scene(rng, int(rng.integers(things[0], things[1] + 1)), split == "test", symbols=0.9)
            shown.append(pixels(scenes.draw(scene, bold)))
            labels.append(scene_labels(scene))
    return torch.from_numpy(np.stack(shown)), torch.from_numpy(np.stack(labels))


@torch.no_grad()
def dense_accuracy(tower: CLIPVisionModel, heads: DenseHeads, split: str, n: int = 192) -> dict[str, float]:
    """Share of patches read right, per attribute, on scenes of 2 to 6 things of a split."""
    device = next(heads.parameters()).device
    images, labels = (t.to(device) for t in batch(split, 777, 0, n, 0.0, (2, 6)))
    read = heads(torch.cat([features(tower, part) for part in images.split(48)]))
    found = {}
    for column, name in enumerate(ATTRIBUTES):
        true = labels[..., column]
        known = true != IGNORE
        if name == "symbol":
            known &= true > 0  # 'none' is easy and common
        found[name] = float((read[name].argmax(-1) == true)[known].float().mean())
    return found


def train_tower(
    options: TowerOptions, folder: Path, report: Callable[[str], object]
) -> tuple[CLIPVisionModel, DenseHeads]:
    """Train tower and heads; crowded scenes teach most per picture."""
    device = best_device()
    with seeded(options.seed):
        tower, heads = make_tower(options).to(device), DenseHeads(options.width).to(device)
    for number, phase in enumerate(options.phases, 1):

        def step_fn(step: int, number: int = number, phase: Phase = phase) -> tuple[Tensor, dict[str, float]]:
            made = batch("align", options.seed + 1000 * number + (number > 1), step, phase.images, phase.easy,
                         phase.things, phase.bold)  # fmt: skip
            images, labels = (t.to(device) for t in made)
            read = heads(features(tower, images))
            losses = {}
            for column, name in enumerate(ATTRIBUTES):
                true = labels[..., column].flatten()
                losses[name] = nn.functional.cross_entropy(read[name].flatten(0, 1), true, ignore_index=IGNORE)
            total = torch.stack([v * (phase.symbol_weight if n == "symbol" else 1.0) for n, v in losses.items()]).sum()
            return total, {n: float(v.detach()) for n, v in losses.items()}

        def show(step: int) -> None:
            report(f"step {step} held-out {dense_accuracy(tower, heads, 'calibration')}")

        optimise(
            {"tower": tower, "heads": heads},
            {"tower": phase.lr, "heads": phase.lr},
            step_fn,
            steps=phase.steps,
            stop=phase.stop,
            folder=folder / f"phase-{number}",
            warmup=60,
            weight_decay=0.05,
            report=report,
            on_save=show,
        )
    return tower.eval().requires_grad_(False), heads.eval().requires_grad_(False)
