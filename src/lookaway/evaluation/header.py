"""The 'run' record: which command, code, model, data, machine and seed the following records come from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..anatomy.find import anatomy_of
from ..core.provenance import provenance as provenance_of

__all__ = ["config_hash", "hardware", "machine", "run_header", "source_commit"]


def run_header(
    command: str,
    model: Any,
    data: str,
    options: Any,
    seed: int = 0,
    model_name: str = "",
    provenance: Mapping[str, Any] | None = None,
    other_model: Sequence[str] = (),
) -> dict[str, Any]:
    """Values of a 'run' record.

    Args:
        command: name of the command, e.g. 'eval'.
        model: the live model.
        data: what was given as --data.
        options: the command's options, a dataclass or a mapping.
        model_name: what the user calls the model; default: its folder or hub id.
        provenance: what the following records depend on, by content (`core.provenance`); None: of model and options.
        other_model: what makes the model another one than the policy was made for, where that was allowed.
    """
    anatomy = anatomy_of(model)
    config = json.loads(json.dumps(asdict(options) if is_dataclass(options) else dict(options), default=str))  # type: ignore[arg-type]
    return {
        "run": uuid.uuid4().hex[:12],
        "command": command,
        "model": model_name or anatomy.base.id or anatomy.base.architecture,
        "base_model": asdict(anatomy.base),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": anatomy.attention,
        "data": data,
        "seed": seed,
        "options": config,
        "provenance": dict(provenance_of(model=model, options=config) if provenance is None else provenance),
        "allowed_other_model": list(other_model),
        "config_hash": config_hash(config),
        **machine(model.device),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with any option."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def machine(device: Any) -> dict[str, Any]:
    """What a measurement was made on: `hardware` in words, and `versions` of the libraries and of this source."""
    versions = {"lookaway": __version__, "commit": source_commit(), "python": platform.python_version()}
    versions |= {name: _version(name) for name in ("torch", "transformers")}
    return {"hardware": hardware(device), "versions": versions}


def hardware(device: Any) -> str:
    """The machine in words, e.g. 'AMD EPYC, 2 cores' or 'NVIDIA H200'."""
    device = torch.device(device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    return f"{name}, {cores} core{'s' * (cores > 1)}, {threads} thread{'s' * (threads > 1)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def source_commit() -> str:
    """The commit of a source checkout, with '+' where files were changed; '' for an installed package."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return ""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, capture_output=True,
                               text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
