"""What the vision tower's own attention says of its tokens, read while the tower runs, for policies that ask for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...core.errors import UnsupportedModel
from ...core.layout import TokenLayout
from ...core.vision_inputs import VisionInputs, attention_received
from .attention_spy import spy

__all__ = ["VisionCapture"]


class VisionCapture:
    """Reads one attention of the vision tower; does nothing where `wanted` is False.

    `generate` may run the tower before the model's forward, so what was seen belongs to the thread, not to a forward.

    Raises:
        UnsupportedModel: the family does not say which attention of its tower the visual tokens come from.
    """

    def __init__(self, anatomy: Anatomy, wanted: bool) -> None:
        self._here = threading.local()
        self.remove: Callable[[], None] = lambda: None
        self._wanted = wanted
        if not wanted:
            return
        tower = anatomy.vision
        if tower is None:
            raise UnsupportedModel(
                f"This policy ranks by the vision tower's own attention, and lookaway knows none in {anatomy.family!r} "
                "whose tokens become the decoder's visual tokens one by one. Use a policy that ranks by the tokens "
                "themselves: la.CDPruner(keep), la.DivPrune(keep), la.DART(layer=0, keep=...)."
            )
        self._class_token = tower.class_token
        self.remove = spy(tower.attention, self._see)

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """A forward begins: where it runs the tower itself, what was seen before belongs to something else."""
        if inputs.get("mm_encoder_outputs") is None:
            self._here.seen = []

    def take(self, layout: TokenLayout) -> VisionInputs | None:
        """What was seen, at the visual slots of a layout over whole prompts; None where nobody asked.

        Raises:
            UnsupportedModel: the tower did not run, or made another number of tokens than the prompt holds.
        """
        if not self._wanted:
            return None
        seen: list[tuple[Tensor, Tensor]] = getattr(self._here, "seen", [])
        self._here.seen = []
        found = sum(received.numel() for received, _ in seen)
        expected = sum(span.length for row in layout.spans for span in row)  # the spans are on the host
        copies = expected // found if found else 0  # beams and several samples a row share one run of the tower
        if not copies or copies * found != expected:
            raise UnsupportedModel(
                f"The vision tower made {found} tokens where the prompt holds {expected}, so its attention cannot be "
                "laid beside them. Hand in pixel_values with the prompt, or use la.CDPruner(keep)."
            )
        visual = layout.visual[::copies]
        received = torch.cat([part.flatten() for part, _ in seen]).to(visual.device)
        keys = torch.cat([part.flatten(0, 1) for _, part in seen]).to(visual.device)
        attention = torch.zeros(visual.shape, device=visual.device).masked_scatter(visual, received)
        wide = torch.zeros(*visual.shape, keys.shape[1], device=visual.device)
        wide = wide.masked_scatter(visual[:, :, None].expand_as(wide), keys)
        return VisionInputs(attention.repeat_interleave(copies, 0), wide.repeat_interleave(copies, 0))

    def _see(self, attention: nn.Module, query: Tensor, key: Tensor, mask: Any, scaling: float) -> None:
        received = attention_received(query.detach(), key.detach(), scaling, self._class_token)
        keys = key.detach().float().mean(1)
        seen = getattr(self._here, "seen", [])
        self._here.seen = [*seen, (received, keys[:, 1:] if self._class_token else keys)]
