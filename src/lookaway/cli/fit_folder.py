"""The folder of a fit: trials that are good for several fits, and what an earlier one of them found, moved aside.

What a policy does to the answers depends on the model, the samples and the space, not on what is asked of the result:
epsilon, delta, the cost that is minimised, a speed-up. So a fit that asks for something else goes on from the trials;
only what was found for the other question may not lie there as this one's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .fit_pictures import HELD_OUT
from .fit_space import BEST, SPACE

__all__ = ["ASKED", "asked_of", "claim_folder"]

ASKED = ("epsilon", "delta", "cost", "speedup", "answer_tokens")
"""Options of a fit that its trials do not depend on."""
FILE = "asked.json"
FOUND = ("policy", "records.jsonl", HELD_OUT, "report.html")
"""What a fit finds."""


def asked_of(options: Any, machine: str) -> dict[str, Any]:
    """What this fit asks for; where seconds count, with what they depend on beside the policies."""
    asked = {name: getattr(options, name) for name in ASKED}
    if options.minimised == "seconds":
        asked |= {"batch_size": options.batch_size, "machine": machine}
    return asked


def claim_folder(options: Any, facts: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Make --out this fit's: its trials are gone on from, and what another question found is moved into a folder of its
    own, which is said.

    Args:
        facts: what trials depend on.
        asked: `asked_of` the options.

    Raises:
        StaleResults: the trials there depend on something else; nothing was changed.
    """
    from ..core.earlier_results import claim
    from ..core.files import write_json
    from ..core.shared_records import parts_of
    from .common import tell

    out = Path(options.out)
    leftovers = ("trials.journal", "policy", HELD_OUT, BEST, SPACE, "gates-behind", FILE)
    claim(out, facts, options.fresh, [out / name for name in leftovers])
    changed = _changed(out / FILE, asked)
    if changed:
        shutil.rmtree(out / BEST, ignore_errors=True)
        text = f"note: asked for now: {'; '.join(changed)}. The trials in {out} are good for both and are gone on from."
        found = [path for path in (*(out / name for name in FOUND), *parts_of(out / HELD_OUT)) if path.exists()]
        if found:
            aside = next(p for n in range(1, 10**6) if not (p := out / f"earlier-{n}").exists())
            aside.mkdir()
            for path in found:
                path.rename(aside / path.name)
            text += (
                f" What was found before is in {aside}. Each certificate holds with its own confidence; of several on "
                "the same samples, the chances that one is wrong add up."
            )
        tell(text)
    write_json(out / FILE, dict(asked))


def _changed(file: Path, asked: Mapping[str, Any]) -> list[str]:
    """What an earlier fit in this folder asked otherwise, as 'name: old -> new'."""
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [f"{name}: {_said(earlier[name])} -> {_said(value)}" for name, value in asked.items()
            if name in earlier and earlier[name] != value]  # fmt: skip


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
