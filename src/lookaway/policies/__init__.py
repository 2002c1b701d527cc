"""Floor 3: the methods, one file each. `la.policies()` lists them, `la.load(path)` reads a saved one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..core.artifact import CONFIG, read_policy, read_policy_yaml
from ..core.callable_module import make_callable
from ..core.certificate import read_certificate
from ..core.decision import Policy
from ..core.registry import registered_policies
from . import attention_skip, baselines, before_decoder, compose, fixed, keep_schedule, second_look, twig, visual_exit
from .building import build_policy

__all__ = [
    "attention_skip",
    "baselines",
    "before_decoder",
    "compose",
    "fixed",
    "keep_schedule",
    "list_policies",
    "load",
    "load_chain",
    "second_look",
    "twig",
    "visual_exit",
]


def load(path_or_hub_id: str | Path) -> Policy:
    """Read a saved policy from a folder or from the hub, or one without weights from a YAML file (see `configs/`).

    Warns of what never drops anything, was changed after it was certified, or has a part whose guarantee is of
    something else. Gates calibrated behind another policy are warned of where they are used, since they may be about
    to be chained to it.

    Raises:
        DataError: there is none, or a file of it is missing or damaged.
        LookawayError: it is of a method that this version does not know, or its settings are out of range.
    """
    policy = _read(path_or_hub_id)
    if policy.unproven and policy.guarantee is None:
        _warn_unproven(str(path_or_hub_id), policy)
    return policy


def _warn_unproven(where: str, policy: Policy) -> None:
    warnings.warn(f"{where}: {policy.unproven}", UserWarning, stacklevel=3)


def _read(path_or_hub_id: str | Path) -> Policy:
    path = Path(path_or_hub_id)
    saved = read_policy_yaml(path) if path.suffix in (".yaml", ".yml") else read_policy(path_or_hub_id)
    policy = build_policy(saved.name, saved.config, saved.tensors, saved.where or str(path_or_hub_id))
    if saved.base is not None:
        object.__setattr__(policy, "base", saved.base)  # policies may be frozen
        if not saved.base.weights:
            warnings.warn(
                f"{path_or_hub_id} was saved by lookaway 0.1, without a digest of the weights of "
                f"{saved.base.id or 'its model'}: whether a model is the one it was made for is checked by its shape "
                "alone. Train or search it again to be sure.",
                UserWarning,
                stacklevel=3,
            )
    if policy.inert:
        warnings.warn(f"{path_or_hub_id}: {policy.inert}", UserWarning, stacklevel=3)
    if Path(saved.where).name == CONFIG:  # a folder, or what the hub gave
        read_certificate(Path(saved.where).parent, policy)  # warns where the folder was changed afterwards
    return policy.confirmed(str(path_or_hub_id))


def load_chain(sources: Sequence[str | Path], allow_other_model: bool = False) -> Policy:
    """One policy, or several, one after another (`la.chain`).

    Args:
        allow_other_model: policies of different models are joined all the same, as if all were for the first one's.

    Raises:
        DataError, LookawayError: as `load`.
    """
    parts = [_read(str(source).strip()) for source in sources]
    bases = [part.base for part in parts if part.base is not None]
    if allow_other_model and bases:
        parts = [part if part.base is None else part.with_base(bases[0]) for part in parts]
    whole = parts[0] if len(parts) == 1 else compose.chain(*parts)
    if whole.unproven:
        _warn_unproven(",".join(str(source).strip() for source in sources), whole)
    return whole


def list_policies() -> dict[str, str]:
    """Names of the registered policies, with one line each."""
    lines = {}
    for name in registered_policies:
        text = (registered_policies[name].__doc__ or "").strip()
        lines[name] = text.splitlines()[0] if text else ""
    return lines


make_callable(__name__, list_policies)
