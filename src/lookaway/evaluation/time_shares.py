"""Where a variant's time goes: one profiled run, with ranges that are put on from outside while the profile is on.

Nothing in the engine knows of it, so that a run without a profile pays nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..anatomy.find import anatomy_of
from ..core.decision import Policy
from ..engine.api import attach
from ..engine.attachment import Attachment
from ..engine.entry import EntryAttachment
from ..engine.handle import Handle
from ..engine.prefill import decoder_call
from ..modules.gates import ExitGates

__all__ = ["RANGES", "TimeShares", "exclusive", "time_shares"]

PREFIX = "lookaway: "
RANGES = ("attaching", "hooks", "policy", "gates", "gathers", "masks", "vision tower", "rest")
_HOOKS = ("_before_model", "_after_model", "_before_decoder", "_before_layer", "_after_layer", "_before_head",
          "_after_head")  # fmt: skip


@dataclass(frozen=True)
class TimeShares:
    """Shares of one profiled run; they sum to 1."""

    variant: str
    batch_size: int
    seconds: float
    """Of the profiled run: more than without a profile, since each operation is noted."""
    shares: dict[str, float | None]
    """Each of `RANGES` -> its share of `seconds`, without what a range inside it took; the vision tower's is None where
    it was not found, and is in the rest then."""


def time_shares(
    model: Any, policies: Mapping[str, Policy], run: Callable[[], object], batch_size: int
) -> list[TimeShares]:
    """Profile `run` once under each policy, after one run that is not profiled.

    On a GPU each range waits for the device at its ends, so that queued work counts where it was queued.
    """
    found = []
    for name, policy in policies.items():
        with attach(model, policy):
            run()
        cpu = [ProfilerActivity.CPU]
        with _ranges(model, policy), profile(activities=cpu) as profiled, _range("rest", model.device):
            with _range("attaching", model.device):
                attached = attach(model, policy)
            with attached:
                run()
        spans = [
            (event.name.removeprefix(PREFIX), event.time_range.start, event.time_range.end)
            for event in profiled.events()
            if event.name.startswith(PREFIX)
        ]
        own = exclusive(spans)
        total = sum(own.values())
        shares: dict[str, float | None] = {kind: own.get(kind, 0.0) / total for kind in RANGES}
        if "vision tower" not in own:
            shares["vision tower"] = None
        found.append(TimeShares(name, batch_size, total / 1e6, shares))
    return found


def exclusive(spans: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """Name -> time inside its spans and outside of spans that lie in them.

    Args:
        spans: name, start and end, of one thread: two either lie in one another or do not meet.
    """
    own: dict[str, float] = {}
    open_: list[tuple[str, float]] = []
    for name, start, end in sorted(spans, key=lambda span: (span[1], -span[2])):
        while open_ and open_[-1][1] <= start:
            open_.pop()
        if open_:
            own[open_[-1][0]] -= end - start
        own[name] = own.get(name, 0.0) + end - start
        open_.append((name, end))
    return own


@contextmanager
def _range(kind: str, device: torch.device) -> Iterator[None]:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    with record_function(PREFIX + kind):
        yield
        wait()


@contextmanager
def _ranges(model: Any, policy: Policy) -> Iterator[None]:
    """Wrap what is named by `RANGES`, and put everything back at the end."""
    with ExitStack() as undo:

        def wrap(owner: Any, name: str, kind: str) -> None:
            inner, own = getattr(owner, name), name in vars(owner)

            @functools.wraps(inner)
            def timed(*args: Any, **kwargs: Any) -> Any:
                with _range(kind, model.device):
                    return inner(*args, **kwargs)

            setattr(owner, name, timed)
            undo.callback(*((setattr, owner, name, inner) if own else (delattr, owner, name)))

        for handle in (Handle, Attachment, EntryAttachment):
            for name in set(_HOOKS) & set(vars(handle)):
                wrap(handle, name, "hooks")
        wrap(type(policy), "decide", "policy")
        wrap(ExitGates, "forward", "gates")
        wrap(ExitGates, "all_layers", "gates")
        wrap(decoder_call.LayerCall, "_mask", "masks")
        gather = decoder_call.gather_rows
        for title, module in list(sys.modules.items()):  # it is imported by name
            if title.startswith("lookaway.") and getattr(module, "gather_rows", None) is gather:
                wrap(module, "gather_rows", "gathers")
        backbone = anatomy_of(model).backbone
        if hasattr(backbone, "get_image_features"):
            wrap(backbone, "get_image_features", "vision tower")
        yield
