"""The whole recipe in one call: tower, projector, phases of alignment, weights, judgement; resumable at any point.

A finished stage is recognised by its last checkpoint, so the same call goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from ...core.files import write_json
from ...core.random_state import seeded
from ...models.mini.parts import cache_root, language_model, llava_config, make_processor
from ...models.mini.weights_io import lora_tensors, write_weights
from .align import AlignOptions, Students, align, with_lora
from .evaluate import evaluate, evaluate_exits, held_out_questions, prior
from .hardware import best_device
from .options import RecipeOptions
from .packing import Tokens
from .projector import train_projector
from .tower import TowerOptions, train_tower, vision_config

__all__ = ["EXIT_LAYERS", "Studio", "judgement", "make_mini"]

Report = Callable[[str], Any]
VARIANTS = ("plain", "exit-aware")
EXIT_LAYERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)


class Studio:
    """Everything loaded, tower and projector trained, LoRA fresh: where alignment starts."""

    def __init__(self, options: RecipeOptions, folder: Path, report: Report) -> None:
        self.options, self.folder, self.report = options, folder, report
        device = best_device()
        language, tokenizer = language_model(cache_root())
        language.to(device)
        self.tokens = Tokens(make_processor(tokenizer))
        self.tower_options = TowerOptions(seed=options.seed)
        tower, self.heads = train_tower(self.tower_options, folder / "tower", report)
        self.vision = vision_config(self.tower_options.width, self.tower_options.layers)
        with seeded(options.seed):
            projector = LlavaMultiModalProjector(llava_config(language.config, self.vision.to_diff_dict())).to(device)
        train_projector(
            tower,
            projector,
            language.model.embed_tokens.weight,
            tokenizer,
            steps=options.projector_steps,
            images=32,
            easy=0.25,
            lr=2e-3,
            seed=options.seed,
            folder=folder / "projector",
            report=report,
        )
        language.requires_grad_(False)
        self.students = Students(
            with_lora(language, options.rank, options.alpha, options.seed).to(device), projector, tower
        )

    def phase(self, name: str) -> AlignOptions:
        """The alignment options of `common`, `binding`, `pairs`, `order`, `exit-aware` or `plain`."""
        o = self.options
        shared: dict[str, Any] = {"images": o.images, "columns": o.columns}
        if name == "common":
            return AlignOptions(
                steps=o.common_schedule, stop=o.common_steps, lr=o.lr, seed=o.seed, easy=o.easy, **shared
            )
        if name == "binding":
            return AlignOptions(
                steps=o.binding_schedule, stop=o.binding_steps, lr=o.lr, seed=o.seed + 2, easy=o.binding_easy,
                described=o.described, visual=(20, 60), progress=(0.5, 1.0), all_visual=0.05, **shared,
            )  # fmt: skip
        if name == "pairs":
            return AlignOptions(
                steps=o.pairs_schedule, stop=o.pairs_steps, lr=o.lr, seed=o.seed + 3, easy=o.pairs_easy,
                described=o.pairs_described, pairs=o.pairs, visual=(20, 60), progress=(0.15, 1.0), all_visual=0.05,
                **shared,
            )  # fmt: skip
        if name == "order":
            return AlignOptions(
                steps=o.pairs_schedule, stop=o.order_steps, lr=o.lr, seed=o.seed + 4, easy=o.pairs_easy,
                described=o.branch_described, pairs=3.0, skew=1.0, visual=(20, 60), progress=(0.1, 1.0),
                all_visual=0.05, **shared,
            )  # fmt: skip
        early = name == "exit-aware"
        return AlignOptions(
            steps=o.exit_steps if early else o.plain_steps, lr=o.branch_lr, projector_lr=2e-4,
            seed=o.seed + (5 if early else 1),
            easy=o.easy, pairs=o.branch_pairs, described=o.branch_described, exit_share=o.exit_share if early else 0.0,
            exit_layers=(o.exit_first, o.exit_last), progress=(0.5, 1.0), all_visual=0.25, **shared,
        )  # fmt: skip

    def align(self, name: str, on_save: Callable[[int], Any] = lambda step: None) -> None:
        """Run (or take up) one phase from the weights that are in place."""
        align(self.students, self.tokens, self.phase(name), self.folder / name, self.report, on_save)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The variant's file: LoRA and projector."""
        projector = {f"projector.{n}": p.detach() for n, p in self.students.projector.named_parameters()}
        return {**lora_tensors(self.students.language.state_dict()), **projector}

    def save(self, name: str, note: str) -> None:
        """Write the tower and this variant into `weights/`."""
        o = self.options
        description = {
            "vision": self.vision.to_diff_dict(),
            "lora": {"rank": o.rank, "alpha": o.alpha},
            "note": note,
            "recipe": {k: getattr(o, k) for k in RecipeOptions.__dataclass_fields__},
            "torch": torch.__version__,
        }
        vision = dict(self.students.tower.named_parameters())
        write_weights(self.folder / "weights", {"vision": vision, name: self.tensors()}, description)


def judgement(studio: Studio, split: str = "test", seed: int = 0) -> dict[str, Any]:
    """All tables of one set of weights: own image, shuffled image, no image, the words' prior, and by exit layer."""
    o, s = studio.options, studio.students
    papers = held_out_questions(split, o.judge_scenes, o.judge_easy, seed)
    fewer = held_out_questions(split, o.judge_scenes // 3, o.judge_easy // 3, seed)
    parts = (s.language, s.tower, s.projector, studio.tokens)
    found: dict[str, Any] = {"pictures": len(papers), "questions": sum(len(e.questions) for e in papers)}
    found["questions_shuffled_and_by_exit_layer"] = sum(len(e.questions) for e in fewer)
    found["prior"] = prior(papers)
    found["own"] = evaluate(*parts, papers)
    studio.report(f"own image: {found['own']}")
    found["none"] = evaluate(*parts, papers, image="none")
    found["shuffled"] = evaluate(*parts, fewer, image="shuffled")
    found["by_exit_layer"] = {str(k): v for k, v in evaluate_exits(*parts, fewer, EXIT_LAYERS).items()}
    return found


def make_mini(options: RecipeOptions, folder: Path, report: Report) -> dict[str, Any]:
    """Run the recipe; answers and writes (`lookaway-mini.json`) the tables of all variants."""
    studio = Studio(options, folder, report)
    for name in ("common", "binding", "pairs", "order"):
        studio.align(name, lambda step, name=name: studio.save("common", f"plain phase {name!r}, {step} steps"))  # type: ignore[misc]
    for name in VARIANTS:  # each phase goes on from the one before
        studio.align(name)
        studio.save(name, "made by `lookaway align`")
    results: dict[str, Any] = {}
    for name in reversed(VARIANTS):  # judged last: weights are safe on disk by then
        studio.align(name)  # finished: only loads its last checkpoint
        results[name] = judgement(studio)
        write_json(folder / "lookaway-mini.json", {"made": _provenance(studio), "variants": results})
    return results


def _provenance(studio: Studio) -> dict[str, Any]:
    """What a reader needs to repeat the numbers, and the questions and minutes that training took."""
    phases: dict[str, Any] = {}
    for log in sorted(studio.folder.rglob("log.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        steps = {line["step"]: line for line in lines}  # a resumed run repeats some
        every = min(steps) if steps else 0
        phases[str(log.parent.relative_to(studio.folder))] = {
            "steps": max(steps, default=0),
            "questions": round(sum(line.get("questions", 0) * every for line in steps.values())),
            "minutes": round(_seconds(lines) / 60, 1),
        }
    o = studio.options
    return {
        "command": "lookaway align --config configs/lookaway-mini.yaml --out DIR",
        "options": {k: getattr(o, k) for k in RecipeOptions.__dataclass_fields__},
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {best_device()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "phases": phases,
    }


def _seconds(lines: list[dict[str, Any]]) -> float:
    """Seconds of all runs of a phase: the clock starts at 0 again where a run was taken up."""
    clock = [line["seconds"] for line in lines]
    return sum(a for a, b in zip(clock, [*clock[1:], 0.0], strict=True) if b < a)
