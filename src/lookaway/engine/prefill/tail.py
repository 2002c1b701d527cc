"""The layers of a prefill behind its last decision: nobody is asked any more, and all of them run on the same columns.

A tail of a few text tokens is bound by what the host does between its layers. So what layers of one kind share (mask,
rotary embeddings, position ids) is worked out for the first of them, and the prompt's state is written at the end.
"""

from __future__ import annotations

from typing import Any

from .decoder_call import LayerCall
from .state import PrefillState
from .step import later_call

__all__ = ["Tail"]


class Tail:
    """The rest of one prefill.

    Args:
        state: of the prompt, none of whose tokens leaves any more.
        call: of any layer of this forward.
    """

    def __init__(self, state: PrefillState, call: LayerCall) -> None:
        self._state, self._call = state, call.of_layer(call.layer, (), {})  # no rows are held
        self._past = state.past.kept_at
        self._marks: dict[int, Any] = {}
        self._changes: dict[tuple[int, int, int], tuple[dict[str, Any], Any]] = {}

    def narrowed(
        self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A layer's arguments, as its forward pre-hook returns them; None: they stay as they are.

        Raises:
            UnsupportedModel: mask or rotary embeddings are of a form that cannot be narrowed.
        """
        mask, cos_sin = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        self._marks[layer] = cos_sin  # `LayerCall.mark`
        key = (id(self._past[layer]), id(mask), id(cos_sin))
        found = self._changes.get(key)
        if found is None:
            call = self._call.of_layer(layer, args, kwargs)
            # mask and embeddings are held, so that their ids are not used again
            found = self._changes[key] = (later_call(self._state, call).narrowing(), (mask, cos_sin))
        return (args, {**kwargs, **found[0]}) if found[0] else None

    def end(self) -> PrefillState:
        """The state at the end of the forward."""
        return self._state.entered(self._marks)
