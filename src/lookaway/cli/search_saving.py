"""The end of a search that made no trials: what was measured, in the folder of a searched policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["save_measured"]


def save_measured(
    options: Any, model: Any, processor: Any, samples: Sequence[Any], policy: Any, summary: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """(folder of the policy, the summary with the samples' fingerprint) of VTW and ShortV.

    Args:
        options: the command's options; how many samples a batch has changes no result.
        policy: what was chosen, for any model; it is bound to this one here.
    """
    from ..anatomy.find import anatomy_of
    from ..core.provenance import provenance
    from ..evaluation.header import run_header
    from ..search.schedules.session import save
    from ..search.trials.samples import fingerprint

    facts = provenance(model=model, processor=processor, samples=samples, options=options, free=("batch_size",))
    header = run_header("search", model, options.data, options, options.seed, options.model, facts)
    whole = {**summary, "fingerprint": fingerprint(samples)}
    return save(options.out, policy.with_base(anatomy_of(model).identity), whole, header, []), whole
