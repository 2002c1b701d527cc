"""The state of a skip search on disk: scores and history as JSON, the supernet and its optimiser as safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...core.errors import DataError
from ...core.files import atomic_path, write_json
from .bandit import Bandit

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["load_state", "save_state"]

STATE = "skip-search.json"


def save_state(
    out: Path,
    facts: dict[str, Any],
    step: int,
    history: list[dict[str, Any]],
    bandit: Bandit,
    supernet: Supernet | None,
) -> None:
    """Write the state; the JSON, which names the weights that go with it, comes last."""
    from safetensors.torch import save_file

    name = None
    if supernet is not None:
        name = f"supernet-{step}.safetensors"
        tensors = {f"adapters.{key}": value for key, value in supernet.adapters.state_dict().items()}
        for place, values in supernet.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{place}.{key}": torch.as_tensor(value) for key, value in values.items()})
        with atomic_path(out / name) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    write_json(
        out / STATE, {"facts": facts, "step": step, "bandit": bandit.state(), "supernet": name, "history": history}
    )
    for other in out.glob("supernet-*.safetensors"):
        if other.name != name:
            other.unlink()


def load_state(
    out: Path, facts: dict[str, Any], bandit: Bandit, supernet: Supernet | None
) -> tuple[int, list[dict[str, Any]]]:
    """(steps that were made, history), with bandit and supernet as they were then; (0, []) where there is no state.

    Raises:
        DataError: the state is damaged or of another search; the text names what differs. Nothing of it is overwritten.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = out / STATE
    if not path.exists():
        return 0, []
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        theirs, step, history, name = state["facts"], int(state["step"]), list(state["history"]), state["supernet"]
        saved = state["bandit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}). Remove it to search from the start.") from error
    ours = json.loads(json.dumps(facts))
    differs = _differences(theirs, ours)
    if differs:
        raise DataError(f"{path} is of another search (different: {', '.join(differs)}). Give another --out.")
    bandit.load(saved)
    if supernet is not None:
        try:
            tensors = load_file(out / name)
            weights = {k.removeprefix("adapters."): v for k, v in tensors.items() if k.startswith("adapters.")}
            supernet.adapters.load_state_dict(weights)
            moments: dict[int, dict[str, Any]] = {}
            for key, value in tensors.items():
                if key.startswith("optimiser."):
                    _, place, part = key.split(".")
                    moments.setdefault(int(place), {})[part] = value
            groups = supernet.optimiser.state_dict()["param_groups"]
            supernet.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        except (SafetensorError, OSError, RuntimeError, TypeError) as error:
            raise DataError(
                f"{out / str(name)} is damaged or missing ({error}). Remove {path} to start anew."
            ) from error
    return step, history


def _differences(theirs: dict[str, Any], ours: dict[str, Any], under: str = "") -> list[str]:
    found = []
    for key in sorted(theirs.keys() | ours.keys()):
        one, other = theirs.get(key), ours.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{under}{key}.")
        elif one != other:
            found.append(under + key)
    return found
