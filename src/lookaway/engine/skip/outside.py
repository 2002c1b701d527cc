"""Who reads a skipped layer's modules: the decoder that runs the layer, or the model in front of it.

LaVIN computes its routing from norms, FFNs and attentions of its decoder layers before the decoder runs. That routing
is the unattached model's, so what stands in for a skipped layer's modules must not answer there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...anatomy.base import Anatomy

__all__ = ["InFrontOfDecoder"]


class InFrontOfDecoder(threading.local):
    """True between the beginning of the model's forward and that of its decoder's, in each thread by itself.

    Not in a backward pass that runs layers again: no forward of the model is under way then.
    """

    now: bool = False

    def __bool__(self) -> bool:
        return self.now

    def install(self, anatomy: Anatomy) -> list[Callable[[], object]]:
        """Watch a model that reads its layers' modules. Returns what takes the hooks off."""
        if not anatomy.reads_layers:
            return []

        def begin(*_: Any) -> None:
            self.now = True

        def end(*_: Any) -> None:
            self.now = False

        return [
            anatomy.backbone.register_forward_pre_hook(begin).remove,
            anatomy.language_model.register_forward_pre_hook(end).remove,
            anatomy.backbone.register_forward_hook(end, always_call=True).remove,
        ]
