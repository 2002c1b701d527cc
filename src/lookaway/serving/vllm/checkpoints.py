"""Checkpoints that transformers 5 saved, under the names that vLLM 0.32 reads.

transformers 5 saves the vision tower of a LLaVA or LLaVA-NeXT as `vision_tower.encoder...`; vLLM looks for
`vision_tower.vision_model.encoder...`, as released checkpoints have it. Transformers reads both.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ...core.errors import DataError
from ...core.files import atomic_directory

__all__ = ["copy_for_vllm"]

TOWER, INNER = "vision_tower.", "vision_model."
RENAMED = ("clip_vision_model", "siglip_vision_model")
"""Kinds of vision towers whose names differ."""


def copy_for_vllm(source: str | Path, target: str | Path) -> Path:
    """Copy a model's folder to `target` (new or empty), with weights that vLLM's loader finds; returns `target`.

    Models without such a vision tower are copied as they are.

    Raises:
        DataError: `source` holds no safetensors file or no config.json.
        LookawayError: `target` is not empty, or cannot be written.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    source = Path(source)
    shards = sorted(source.glob("*.safetensors"))
    if not shards or not (source / "config.json").exists():
        raise DataError(f"{source} holds no model with safetensors weights: give a folder that save_pretrained wrote.")
    tower = json.loads((source / "config.json").read_text()).get("vision_config", {}).get("model_type")
    rename = _name if tower in RENAMED else str
    with atomic_directory(target) as folder:
        for path in source.iterdir():
            if path.is_file() and path not in shards and path.name != "model.safetensors.index.json":
                shutil.copyfile(path, folder / path.name)
        for shard in shards:
            with safe_open(shard, "pt") as file:
                tensors = {rename(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                save_file(tensors, folder / shard.name, file.metadata())
        index = source / "model.safetensors.index.json"
        if index.exists():
            document = json.loads(index.read_text())
            document["weight_map"] = {rename(key): shard for key, shard in document["weight_map"].items()}
            (folder / index.name).write_text(json.dumps(document, indent=2))
    return Path(target)


def _name(key: str) -> str:
    before, tower, behind = key.partition(TOWER)
    if not tower or behind.startswith(INNER):
        return key
    return f"{before}{tower}{INNER}{behind}"
