"""`lookaway env`: versions, machine and policy, as plain lines to paste into an issue."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.decision import Policy

PACKAGES = (
    "torch", "torchvision", "transformers", "tokenizers", "safetensors", "huggingface-hub", "numpy", "pillow",
    "accelerate", "peft", "bitsandbytes", "flash-attn", "optuna", "scipy", "vllm",
)  # fmt: skip
"""What a fault may depend on: the core's own dependencies, and packages that change how a model runs."""

VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "LOOKAWAY_CACHE", "LOOKAWAY_DEBUG")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print versions, hardware and thread settings, and what a policy is: paste it into an issue.

    Nothing is sent anywhere and no model is loaded. The lines hold no user name, host name or path of yours.
    """

    policy: str | None = None
    """A policy folder, YAML file or hub id to describe (several, joined by commas, form a chain)."""


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"versions": _versions(), "machine": _machine()}
    if options.policy is not None:
        from .common import load_policies

        found["policy"] = describe(load_policies(options.policy))
    for part, values in found.items():
        print(f"{part}:")
        for name, value in values.items():
            print(f"  {name}: {value}")
    return found


def describe(policy: Policy) -> dict[str, Any]:
    """Name, settings, learned weights and base model of a policy, as plain values."""
    values: dict[str, Any] = {"method": policy.name}
    values |= {name: _short(value) for name, value in policy.to_config().items()}
    tensors = policy.tensors()
    if tensors:
        values["learned weights"] = f"{sum(tensor.numel() for tensor in tensors.values()):,}"
    base = policy.base
    values["made for"] = "any model" if base is None else f"{base.id or base.architecture}, {base.num_layers} layers"
    return values


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + " ..."


def _versions() -> dict[str, str]:
    from .. import __version__
    from ..evaluation.header import source_commit

    commit = source_commit()
    found = {
        "lookaway": __version__ + (f" (commit {commit})" if commit else ""),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    import torch

    from ..evaluation.header import hardware

    found: dict[str, Any] = {"processor": hardware("cpu")}
    if hasattr(os, "sched_getaffinity"):
        found["cores this process may use"] = len(os.sched_getaffinity(0))
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    for number in range(torch.cuda.device_count()):
        shape = torch.cuda.get_device_properties(number)
        found[f"GPU {number}"] = f"{shape.name}, {shape.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        found["GPU"] = "Apple (MPS)" if torch.backends.mps.is_available() else "none"
    found["CUDA of torch"] = torch.version.cuda or "none"
    found["variables"] = ", ".join(f"{name} is set" if _private(name) else f"{name}={os.environ[name]}"
                                   for name in VARIABLES if name in os.environ) or "none set"  # fmt: skip
    found["output"] = "a terminal" if sys.stdout.isatty() else "redirected"
    return found


def _private(name: str) -> bool:
    """Whether the variable's value is a path, which may hold a user's name."""
    return name == "LOOKAWAY_CACHE"
