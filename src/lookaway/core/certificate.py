"""The certificate of a policy: what was shown about it, on which data, and a digest of exactly that policy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .artifact import CERTIFICATE
from .decision import Policy
from .files import write_json
from .provenance import policy_digest

__all__ = ["CERTIFICATE", "read_certificate", "write_certificate"]


def write_certificate(folder: Path, policy: Policy, shown: Mapping[str, Any]) -> None:
    """Put a certificate beside a saved policy.

    Args:
        shown: epsilon, delta, samples, changed, bound, and what the result depends on.
    """
    write_json(folder / CERTIFICATE, {**shown, "policy": policy_digest(policy)})


def read_certificate(folder: Path, policy: Policy) -> dict[str, Any] | None:
    """The certificate in a policy's folder; None where there is none, or where it is of another policy.

    Warns where the folder was changed after it was certified.
    """
    try:
        found = json.loads((folder / CERTIFICATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(found, dict) and found.get("policy") == policy_digest(policy):
        return found
    warnings.warn(
        f"{folder} was changed after it was certified: the bound in {CERTIFICATE} does not hold for this policy. Run "
        "lookaway fit again.",
        stacklevel=3,
    )
    return None
