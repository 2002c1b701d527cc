"""Decoder layers that run outside of a forward: gradient checkpointing runs them again, in some versions with their
hooks; anything else is a mistake."""

from __future__ import annotations

from collections import deque

from ..core.errors import AttachError
from .prefill.decoder_call import LayerCall
from .prefill.state import PrefillState
from .prefill.step import repeated_step
from .skip.skipping import Skipping

__all__ = ["UnfinishedPrompts", "outside_of_forward"]

MOST = 8


class UnfinishedPrompts:
    """Prompts whose layers may run again in a backward pass that is still to come."""

    def __init__(self, skipping: Skipping) -> None:
        self._skipping = skipping
        self._states: deque[PrefillState] = deque(maxlen=MOST)

    def add(self, state: PrefillState) -> None:
        """A forward with gradient checkpointing has ended; `state` is that of its end."""
        self._states.append(state)

    def again(self, call: LayerCall) -> LayerCall:
        """A layer's call as it was in its forward.

        Raises:
            AttachError: no such forward is known.
        """
        mark = call.mark
        state = next((s for s in tuple(self._states) if mark is not None and mark is s.marks.get(call.layer)), None)
        if state is None:
            raise outside_of_forward()
        attends = call.layer not in self._skipping
        again = repeated_step(state, call, attends)
        return again if attends else self._skipping.repeat(state, again)


def outside_of_forward() -> AttachError:
    return AttachError(
        "A decoder layer ran outside of the model's forward while a policy is attached, so lookaway cannot see where "
        f"the image is. Call the whole model (with gradient checkpointing: at most {MOST} forwards before their "
        "backward), or detach first."
    )
