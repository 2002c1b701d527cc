"""What several commands share: which policy is meant, progress bars, resuming, tables."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ..core.errors import DataError
from ..core.processes import processes

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.draft import Draft

__all__ = ["cache_folder", "choose_draft", "choose_policy", "earlier_records", "fit_to", "load_policies",
           "plain_console", "print_note", "tell"]  # fmt: skip


def plain_console(stderr: bool = False) -> Console:
    """A console that prints texts as they are: an answer or the name of a folder may hold brackets or ':smile:'."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_note(console: Console, text: str) -> None:
    """A line that a reader should not miss."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"))


def choose_policy(model: str, policy: str | None, exit_at: int | None, allow_other_model: bool = False) -> Policy:
    """The policy that --policy or --exit-at names; for the default models their own gates where neither is given.

    Several policies, joined by commas, are one after another (`la.chain`).
    """
    import lookaway as la

    if policy is not None and exit_at is not None:
        raise DataError(f"Give either --policy ({policy}) or --exit-at ({exit_at}), not both.")
    if exit_at is not None:
        return la.ExitAt(exit_at)
    if policy is not None:
        return load_policies(policy, allow_other_model)
    if model.startswith("lookaway-mini"):
        from ..models.mini.model import shipped_gates

        return la.load(shipped_gates(model))
    raise DataError(
        "No policy: give --policy DIR (`lookaway fit` finds one for a model and data, `lookaway train` trains exit "
        "gates) or --exit-at LAYER."
    )


def load_policies(policy: str, allow_other_model: bool = False) -> Policy:
    """'a' -> that policy; 'a,b' -> one after the other."""
    from ..policies import load_chain

    return load_chain(_several(policy), allow_other_model)


def fit_to(model: Any, policy: Policy, allow_other_model: bool) -> tuple[Policy, list[str]]:
    """The policy for this model, before any work, and what differs where it was made for another one.

    Raises:
        ModelMismatch: it was made for another model, and that is not allowed.
    """
    from ..anatomy.find import anatomy_of

    anatomy = anatomy_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a policy that does nothing was named when it was loaded
        found = anatomy.check_policy(policy, allow_other_model)
    if found:
        tell(f"note: this policy was made for another model: {'; '.join(found)}")
        policy = policy.with_base(anatomy.identity)
    return policy, found


def choose_draft(given: str) -> Draft:
    """'8' -> the first 8 layers guess; a folder, hub id or YAML file -> its twig does.

    Raises:
        SettingsError: the policy has no twig, or the number is out of range.
    """
    import lookaway as la

    return la.Draft(int(given) if re.fullmatch(r"-?\d+", given) else la.load(given))


def _several(policy: str) -> list[str]:
    """'a' -> ['a']; 'a,b' -> ['a', 'b'], but for a path that has a comma in its name."""
    return [policy] if Path(policy).exists() else [part.strip() for part in policy.split(",")]


def short_names(paths: Sequence[str], taken: Collection[str] = (), what: str = "policy") -> list[str]:
    """What tables and records call policies or drafts: the last part of each path, or the whole path where two end
    alike or the name is taken; never one name for two.

    Raises:
        SettingsError: one is given twice.
    """
    from ..core.errors import SettingsError

    if twice := [path for path in paths if paths.count(path) > 1]:
        raise SettingsError(
            f"The {what} {twice[0]} is given twice. Name each {what} once"
            + ("; a comma joins two to a chain." if what == "policy" else ".")
        )
    short = [path if "," in path else Path(path).name for path in paths]
    return [
        name if short.count(name) == 1 and name not in taken else path for name, path in zip(short, paths, strict=True)
    ]


def cache_folder() -> Path:
    """Where features and labels are kept; files are named by what they hold, so nothing stale is ever read."""
    from ..core.files import cache_root

    return cache_root() / "tables"


def tell(line: str) -> None:
    """A plain line on stderr, at once: what is about to be done."""
    print(line, file=sys.stderr, flush=True)


def earlier_records(records: Path, facts: Mapping[str, Any], fresh: bool) -> list[dict[str, Any]]:
    """The records that an interrupted run of the same job left, of one process or several; with `fresh` they are
    removed first.

    Raises:
        StaleResults: the records depend on something else than `facts`; nothing of them is overwritten.
    """
    return processes().first(lambda: _earlier(records, facts, fresh))


def _earlier(records: Path, facts: Mapping[str, Any], fresh: bool) -> list[dict[str, Any]]:
    from ..core.earlier_results import require_same, start_anew
    from ..core.record import RecordWriter, read_records
    from ..core.shared_records import merge_parts, parts_of

    if fresh:
        start_anew(records, *parts_of(records))
    merge_parts(records, lambda header: require_same(header.get("provenance"), facts, records))
    if not records.exists():
        return []
    RecordWriter(records).close()  # drops a line that a kill cut short
    found = list(read_records(records))
    headers = [record for record in found if record["kind"] == "run"]
    if found and not headers:
        require_same(None, facts, records)  # nobody knows what these are of
    for header in headers:
        require_same(header.get("provenance"), facts, records)
    return found
