"""In the worker: of what the vision tower made of a picture, the rows that stay before the decoder.

The policy is asked as by `la.attach`, over the part of the prompt that its choice depends on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.decision import LayerView
from ...core.errors import InvalidDecision
from ...core.layout import ImageSpan, TokenLayout
from ...core.vision_inputs import VisionInputs
from .kept_counts import SIZES, WHOLE, evenly_kept, reads
from .pictures import own_grid, visual_ranges
from .settings import Settings
from .short_prompt import Marked, marked
from .tower import Seen

__all__ = ["KeptPictures"]


class KeptPictures:
    """Replaces a picture's rows in the runner's encoder cache by those that stay, and remembers which these are.

    Args:
        grid: rows and columns of each picture's visual tokens, where the model gives all pictures the same.
    """

    def __init__(self, settings: Settings, grid: tuple[int, int] | None) -> None:
        self.settings, self.grid = settings, grid
        self.places: dict[str, NDArray[np.int64]] = {}
        """Picture's identifier -> places among all of its visual tokens, ascending."""

    def choose(self, runner: Any, scheduled: Any, seen: Seen | None) -> None:
        """Choose for the pictures that were encoded in this step.

        Args:
            scheduled: vLLM's `SchedulerOutput`.
            seen: what the vision tower's attention said of them, where a policy asks for that.

        Raises:
            InvalidDecision: another number of tokens stays than the prompt has places for.
        """
        cache = runner.encoder_cache
        for identifier in self.places.keys() - cache.keys():
            del self.places[identifier]
        done = set()
        for request_id, indexes in scheduled.scheduled_encoder_inputs.items():
            record = runner.requests[request_id]
            for index in indexes:
                feature = record.mm_features[index]
                found = marked(feature)
                if found is None or feature.identifier in done:
                    continue
                done.add(feature.identifier)
                vision = None if seen is None else seen.of(feature.identifier)
                keep, rows = self._chosen(runner, record, feature, found, cache[feature.identifier], vision)
                self.places[feature.identifier] = np.flatnonzero(keep.cpu().numpy())
                stays = len(self.places[feature.identifier])
                if stays != feature.mm_position.get_num_embeds():
                    raise InvalidDecision(
                        f"The policy {found.policy!r} keeps {stays} of {found.length} visual tokens, where the prompt "
                        f"has places for {feature.mm_position.get_num_embeds()}."
                    )
                cache[feature.identifier] = rows[keep]

    def _chosen(
        self, runner: Any, record: Any, feature: Any, found: Marked, rows: Tensor, vision: VisionInputs | None
    ) -> tuple[Tensor, Tensor]:
        """(which of a picture's rows stay, bool [N]; the rows [N, D] with what was merged into them)."""
        policy = self.settings.before(found.policy)
        assert policy is not None
        if reads(policy) == SIZES:
            kept = evenly_kept(policy, self.settings.num_layers, found.lengths)[found.picture]
            return torch.from_numpy(kept).to(rows.device), rows
        ids, visual = torch.zeros(0, dtype=torch.int64), torch.ones(len(rows), dtype=torch.bool)
        if reads(policy) == WHOLE:
            ids, visual = _whole_prompt(record, feature, len(rows))
        hidden = rows.new_zeros(len(visual), rows.shape[1])
        if len(ids):
            hidden[(~visual).to(rows.device)] = runner.model.embed_input_ids(ids.to(rows.device)).to(rows.dtype)
        hidden[visual.to(rows.device)] = rows
        span = ImageSpan(int(visual.int().argmax()), len(rows), self.grid or own_grid(feature, len(rows)))
        here = visual.to(rows.device)[None]
        layout = TokenLayout(here, ~here, torch.zeros_like(here), ((span,),))
        total = here.sum(1)
        decision = policy.decide(LayerView(0, self.settings.num_layers, layout, hidden[None], total, vision=vision))
        keep = here[0] if decision.keep is None else decision.keep[0]
        if decision.values is not None:
            rows = decision.values[0][here[0]].to(rows.dtype)
        return keep[here[0]], rows


def _whole_prompt(record: Any, feature: Any, length: int) -> tuple[Tensor, Tensor]:
    """(the ids of a prompt's text, int64 [T]; where the tokens of its one picture are, bool [S]), as it was before it
    was shortened."""
    ids = torch.tensor(record.prompt_token_ids)
    ((start, stop),) = visual_ranges([feature])
    text = torch.cat([ids[:start], ids[stop:]])
    visual = torch.zeros(len(text) + length, dtype=torch.bool)
    visual[start : start + length] = True
    return text, visual
