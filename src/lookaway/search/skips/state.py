"""The state of a skip search on disk: scores and history as JSON, the supernet and its optimiser as safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...core.earlier_results import require_same, start_anew
from ...core.errors import DataError
from ...core.files import atomic_path, write_json
from .bandit import Bandit

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["forget_state", "load_state", "save_state"]

STATE = "skip-search.json"


def forget_state(out: Path) -> None:
    """Remove the state, so that a search in `out` starts anew."""
    start_anew(out / STATE, *out.glob("supernet-*.safetensors"))


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
        DataError: the state is damaged.
        StaleResults: it is of another search; the text names what differs. Nothing of it is overwritten.
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
    require_same(theirs, facts, path)
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
