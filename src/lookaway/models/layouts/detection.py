"""Which published layout a folder is, decided by its keys before transformers' AutoConfig sees it.

LLaVA's published configs say `model_type: llava`, which AutoConfig takes for its own class and completes with defaults
that are not the model's: another model, in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.errors import LookawayError, PreparationError, SettingsError, UnsupportedModel
from .json_files import read_json
from .plan import Plan
from .request import Request

__all__ = ["LAYOUTS", "Layout", "plan_for", "recognise"]


@dataclass(frozen=True)
class Layout:
    """A published layout that lookaway reads."""

    name: str
    title: str
    matches: Callable[[Mapping[str, Any]], bool]
    """Whether a config.json is of this layout; the first that says so has it."""
    planner: str
    """'module:function' below `lookaway.models`, which makes a `Plan` of a `Request`."""
    names_tower: bool = False
    """The checkpoint may only name its vision tower, which then lies in a folder of its own."""

    def plan(self, request: Request) -> Plan:
        """Raises UnsupportedModel, PreparationError or SettingsError, each with the reason and the cure."""
        if request.vision_tower is not None and not self.names_tower:
            raise SettingsError(
                f"{self.title} holds its vision tower itself: leave out vision_tower ({request.vision_tower})."
            )
        module, _, function = self.planner.partition(":")
        planner = getattr(import_module(f"...{module}", __name__), function)
        try:
            plan: Plan = planner(request)
        except (LookawayError, ImportError):
            raise  # they say what is wrong by themselves
        except Exception as error:  # a key that is not there, and whatever damaged tokenizer files raise
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise PreparationError(
                f"{request.folder} looks like {self.title}, but its config or tokenizer files do not hold what that "
                f"layout has ({type(error).__name__}: {reason}). Compare them with the published ones, or download "
                "them again."
            ) from error
        return plan


def _tower(config: Mapping[str, Any]) -> str:
    return str(config.get("mm_vision_tower") or "")


def _is_llava(config: Mapping[str, Any]) -> bool:
    return bool(_tower(config)) and "vision_config" not in config and ";" not in _tower(config)


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "eagle-x5", "Eagle-X5 or X4",
        lambda c: ";" in _tower(c) and "vision_config" not in c, "eagle.original:plan_eagle",
    ),
    Layout(
        "internvl-chat-1.0", "InternVL-Chat-ViT-6B-Vicuna (InternVL-Chat 1.0)",
        lambda c: _is_llava(c) and "intern" in _tower(c).lower(), "llava.original:plan_llava", True,
    ),
    Layout(
        "llava-1.6", "LLaVA-1.6 (LLaVA-NeXT)",
        lambda c: _is_llava(c) and c.get("image_aspect_ratio") == "anyres", "llava.next_original:plan_llava_next", True,
    ),
    Layout(
        "llava-1.5", "LLaVA-1.5 or VILA 1.0",
        _is_llava, "llava.original:plan_llava", True,
    ),
    Layout("vila-1.5", "VILA 1.5", lambda c: "llm_cfg" in c, "vila.original:plan_vila"),
    Layout(
        "internvl2", "InternVL2 or 2.5",
        lambda c: c.get("model_type") == "internvl_chat", "internvl.original:plan_internvl",
    ),
    Layout(
        "eagle2", "Eagle2",
        lambda c: c.get("model_type") in ("eagle_chat", "eagle_2_5_vl"), "eagle2.original:plan_eagle2",
    ),
)  # fmt: skip


def recognise(folder: Path) -> Layout | None:
    """The layout of a folder; None: not one of these, transformers may know it.

    Raises:
        UnsupportedModel: a layout that is known and cannot be read right.
        PreparationError: the config cannot be read, or the folder is only a part of a model.
    """
    config = read_json(folder / "config.json")
    if not config:
        _refuse_parts(folder)
        return None
    _refuse_layouts(config)
    return next((layout for layout in LAYOUTS if layout.matches(config)), None)


def plan_for(folder: Path, vision_tower: str | Path | None = None, conversation: str | None = None) -> Plan | None:
    """What a published checkpoint becomes; None where the folder is of no published layout."""
    layout = recognise(folder)
    if layout is None:
        return None
    tower = Path(vision_tower) if vision_tower is not None else None
    return layout.plan(Request(folder, read_json(folder / "config.json"), tower, conversation))


def _refuse_layouts(config: Mapping[str, Any]) -> None:
    kind, names = config.get("model_type"), config.get("architectures") or ["?"]
    for is_so, name, reason in REFUSED:
        if is_so(config):
            raise UnsupportedModel(f"{name} ({names[0]}, model_type {kind!r}) is not supported: {reason}")


def _is_nvila(config: Mapping[str, Any]) -> bool:
    projector = config.get("mm_projector_cfg")
    kind = str(projector.get("mm_projector_type")) if isinstance(projector, Mapping) else ""
    dynamic = str(config.get("image_aspect_ratio", "")).startswith("dynamic") or bool(config.get("dynamic_s2"))
    return "llm_cfg" in config and (dynamic or kind.endswith("_fix") or bool(config.get("chat_template")))


REFUSED: tuple[tuple[Callable[[Mapping[str, Any]], bool], str, str], ...] = (
    (
        _is_nvila, "NVILA",
        "its dynamic tiles, its projectors and its prompts are other ones than VILA 1.5's, which is read.",
    ),
    (
        lambda c: c.get("model_type") == "internvl_chat" and c.get("ps_version", "v1") == "v1",
        "InternVL-Chat 1.1 and 1.2 (ps_version v1)",
        "their visual tokens are shuffled in another order (ps_version v1), which transformers' InternVL does not "
        "compute. InternVL2 and 2.5 (v2) are read.",
    ),
    (
        lambda c: _is_llava(c) and c.get("model_type") not in ("llava", "llava_llama", "llava_mistral"),
        "A LLaVA with another decoder than Llama's or Mistral's, or another descendant of LLaVA",
        "only LLaVA-1.5 and 1.6 in their Llama and Mistral forms are read (model_type llava, llava_llama or, for "
        "LLaVA-1.6, llava_mistral).",
    ),
    (
        lambda c: _is_llava(c) and c.get("model_type") == "llava_mistral" and c.get("image_aspect_ratio") != "anyres",
        "A LLaVA-1.5 with a Mistral decoder",
        "its sliding window and its prompt were not held to public code. LLaVA-1.6's Mistral is read.",
    ),
    (
        lambda c: bool(c.get("quantization_config")) and any(layout.matches(c) for layout in LAYOUTS),
        "A quantised checkpoint",
        "its weights are no plain matrices. Give the checkpoint that it was made from.",
    ),
)  # fmt: skip
"""(what its config looks like, its name, why it is refused)."""


def _refuse_parts(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        raise PreparationError(
            f"{folder} is a LoRA adapter, not a model: merge it into {base} and give the merged folder."
        )
    if (folder / "mm_projector.bin").is_file():
        raise PreparationError(f"{folder} holds a projector only (mm_projector.bin): give the whole checkpoint.")
