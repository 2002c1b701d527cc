"""The trained weights of `lookaway-mini` on disk: the tower once, LoRA and projector per variant, and a description.

`weights/vision.safetensors`, `weights/<variant>.safetensors` (keys `lora.<module>.A|B`, `projector.<name>`),
`weights/mini.json`. All float16: 4-bit base weights make more digits pointless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.errors import PreparationError
from ...core.files import atomic_path, write_json
from .parts import sha256

__all__ = [
    "VARIANTS",
    "WEIGHTS",
    "Variant",
    "lora_tensors",
    "merge_lora",
    "read_description",
    "read_tensors",
    "write_weights",
]

Variant = Literal["exit-aware", "plain"]
VARIANTS: tuple[str, ...] = get_args(Variant)
WEIGHTS = Path(__file__).parent / "weights"


def lora_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """peft's state dict of a LlamaForCausalLM as `lora.layers.0.mlp.up_proj.A` and so on."""
    found = {}
    for name, tensor in state.items():
        for peft_name, short in ((".lora_A.default.weight", ".A"), (".lora_B.default.weight", ".B")):
            if name.endswith(peft_name):
                module = name.removesuffix(peft_name).split("model.layers.", 1)[1]
                found[f"lora.layers.{module}{short}"] = tensor.detach().to(torch.float16).contiguous()
    return found


@torch.no_grad()
def merge_lora(language: Any, tensors: Mapping[str, Tensor], scale: float) -> None:
    """Add scale * B @ A to every linear that has an adapter (as peft's merge_and_unload; checked in the tests).

    In float64, so that the order in which a machine sums does not reach the weights: policies know this model by a
    digest of them (`core.weights`), which must be the same everywhere.
    """
    for name in [n for n in tensors if n.startswith("lora.") and n.endswith(".A")]:
        module = name.removeprefix("lora.").removesuffix(".A")
        weight = language.model.get_submodule(module).weight
        low, high = tensors[name].double(), tensors[name[:-1] + "B"].double()
        weight.copy_(weight.double() + scale * (high @ low))


def read_description(folder: Path = WEIGHTS) -> dict[str, Any]:
    """mini.json: the tower's configuration, LoRA's scale, checksums, and how the weights were made."""
    try:
        return dict(json.loads((folder / "mini.json").read_text()))
    except (OSError, ValueError) as error:
        raise PreparationError(
            f"The weights of lookaway-mini in {folder} are missing or broken ({error}). Install lookaway again, or "
            "make them with `lookaway align --config configs/lookaway-mini.yaml --out DIR`."
        ) from error


def read_tensors(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of `vision` or a variant, after checking the file against mini.json."""
    path, expected = folder / f"{name}.safetensors", read_description(folder)["sha256"].get(name)
    if not path.exists() or expected is None:
        raise PreparationError(f"No weights {name!r} of lookaway-mini in {folder}; install lookaway again.")
    if (found := sha256(path)) != expected:
        raise PreparationError(f"{path} has SHA-256 {found}, not {expected}: it was damaged. Install lookaway again.")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise PreparationError(f"{path} cannot be read ({error}); install lookaway again.") from error


def write_weights(folder: Path, files: Mapping[str, Mapping[str, Tensor]], description: Mapping[str, Any]) -> None:
    """Write files and then mini.json with their checksums; files named in an older mini.json and not here stay."""
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, str] = {}
    if (folder / "mini.json").exists():
        known = dict(read_description(folder)["sha256"])
    for name, tensors in files.items():
        with atomic_path(folder / f"{name}.safetensors") as path:
            save_file({k: v.to(torch.float16).contiguous() for k, v in tensors.items()}, path)
        known[name] = sha256(folder / f"{name}.safetensors")
    write_json(folder / "mini.json", {**description, "sha256": known})
