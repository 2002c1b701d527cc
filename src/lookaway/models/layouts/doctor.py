"""What a checkpoint folder is, told without loading weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import LookawayError
from .detection import recognise
from .json_files import read_json
from .plan import Plan, checked_pieces
from .reader import weight_files
from .request import Request

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it is printed."""

    supported: bool
    why: str
    """One sentence: why not, or what was checked."""
    facts: dict[str, str] = field(default_factory=dict)


def diagnose(folder: str | Path, vision_tower: str | Path | None = None, conversation: str | None = None) -> Diagnosis:
    """Layout, parts, sizes, tokenizer and prompt of a folder, and whether it loads and why not.

    The names and shapes of all tensors are compared with the model's; no tensor is read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return Diagnosis(False, f"There is no folder {folder}.")
    config = read_json(folder / "config.json") if _reads(folder / "config.json") else {}
    facts = {
        "folder": str(folder),
        "says of itself": f"model_type {config.get('model_type')!r}, {', '.join(config.get('architectures') or ['?'])}",
    }
    try:
        facts["weights"] = _weights(folder)
        layout = recognise(folder)
        if layout is None:
            if not config:
                return Diagnosis(False, "It has no config.json, so it is no model folder.", facts)
            facts["layout"] = "none of the published ones: read by transformers itself"
            return Diagnosis(True, "transformers reads it, where it knows the model_type.", facts)
        facts["layout"] = layout.title
        tower = Path(vision_tower) if vision_tower is not None else None
        plan = layout.plan(Request(folder, config, tower, conversation))
        facts.update(_of_plan(plan))
        pieces, _ = checked_pieces(plan)
    except LookawayError as error:
        return Diagnosis(False, str(error), facts)
    return Diagnosis(True, f"All {len(pieces)} tensors are there, with the shapes that the config asks for.", facts)


def _reads(path: Path) -> bool:
    try:
        read_json(path)
    except LookawayError:
        return False
    return True


def _weights(folder: Path) -> str:
    parts = [folder, *(folder / name for name in ("llm", "vision_tower", "mm_projector") if (folder / name).is_dir())]
    files = [file for part in parts for file in weight_files(part)]
    size = sum(file.stat().st_size for file in files)
    return f"{len(files)} file{'s' * (len(files) > 1)}, {_readable(size)}" if files else "none"


def _of_plan(plan: Plan) -> dict[str, str]:
    """Sizes, tokenizer and prompt, from the config that the model will have."""
    config: Any = plan.config
    text, vision = config.get_text_config(), config.vision_config
    tokenizer = plan.processor.tokenizer
    towers = [source.shards.folder for source in plan.sources[1:]]
    return {
        "becomes": f"{plan.model_class.__name__}, {str(plan.dtype).removeprefix('torch.')}",
        "decoder": f"{type(text).__name__.removesuffix('Config')}: {text.num_hidden_layers} layers of "
        f"{text.hidden_size}, {text.num_attention_heads} heads, vocabulary {text.vocab_size}",
        "vision tower": f"{type(vision).__name__.removesuffix('Config')}, "
        + (f"from {', '.join(map(str, towers))}" if towers else "inside the checkpoint"),
        "tokenizer": f"{len(tokenizer)} pieces, placeholder {tokenizer.decode([config.image_token_id])!r} is id "
        f"{config.image_token_id}",
        "prompt": plan.conversation,
    }


def _readable(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
