"""In the worker: the positions of tokens behind which others left before the decoder.

vLLM counts the tokens of the shorter prompt. Here they get the positions that they have in the whole prompt: in one
dimension their place in it, in three what the model itself gives the whole prompt. What vLLM's buffer holds is
overwritten just before the decoder runs, so a captured graph reads it, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .choosing import KeptPictures
from .pictures import visual_ranges
from .settings import Settings
from .short_prompt import marked

__all__ = ["KeptPositions"]


class KeptPositions:
    """The positions of the requests that were shortened and keep the positions that their tokens had."""

    def __init__(self, settings: Settings, kept: KeptPictures) -> None:
        self.settings, self.kept = settings, kept
        self._whole: dict[str, tuple[Any, Tensor]] = {}
        """Request id -> (its record, positions of its whole prompt [3, P]), where they have three dimensions."""

    def wanted(self, record: Any) -> bool:
        """Whether a request of the runner was shortened under original positions."""
        found = [mark for feature in record.mm_features if (mark := marked(feature))]
        return bool(found) and not self.settings.policies[found[0].policy].renumbers()

    def begin(self, runner: Any, record: Any) -> None:
        """In place of vLLM's `_init_mrope_positions`: positions [3, P] of the whole prompt, and how far those of the
        answer are from its places in the shorter one."""
        # Which tokens stayed is left to `correct`: a picture begins in the whole prompt where it does, whatever stays.
        places, whole = self._places(record, which=False)
        ids = np.zeros(whole, dtype=np.int64)
        ids[places] = record.prompt_token_ids
        features = [_in_whole(feature, int(places[feature.mm_position.offset])) for feature in record.mm_features]
        positions, delta = runner.get_model().get_mrope_input_positions(ids.tolist(), features)
        self._whole[record.req_id] = (record, positions)
        record.mrope_positions = positions[:, torch.from_numpy(places)]
        record.mrope_position_delta = delta + whole - len(places)

    def correct(self, runner: Any, positions: Tensor) -> None:
        """Overwrite the positions of the step's rows, [T] or [3, T], where they are to be others."""
        for request_id in self._whole.keys() - runner.requests.keys():
            del self._whole[request_id]
        starts, rows, values = runner.query_start_loc.np, [], []
        for row, request_id in enumerate(runner.input_batch.req_ids):
            record = runner.requests[request_id]
            if not self.wanted(record):
                continue
            start, stop = int(starts[row]), int(starts[row + 1])
            done = int(runner.input_batch.num_computed_tokens_cpu[row])
            places, whole = self._places(record, done, done + stop - start)
            of_prompt = places[done : done + stop - start]
            if positions.dim() == 1:
                answer = np.arange(done + len(of_prompt), done + stop - start) + whole - len(places)
                rows.append(np.arange(start, stop))
                values.append(torch.from_numpy(np.concatenate([of_prompt, answer])))
            elif len(of_prompt):  # vLLM knows the answer's from `begin`
                rows.append(np.arange(start, start + len(of_prompt)))
                values.append(self._whole[request_id][1][:, torch.from_numpy(of_prompt)])
        if rows:
            where = torch.from_numpy(np.concatenate(rows)).to(positions.device)
            positions[..., where] = torch.cat(values, -1).to(positions.device, positions.dtype)

    def _places(self, record: Any, first: int = 0, end: int = 0, which: bool = True) -> tuple[NDArray[np.int64], int]:
        """(places in the whole prompt of the tokens of the shorter one, int64 [p]; length of the whole prompt).

        Which of a picture's tokens stayed need not be known unless some of them are among the tokens `first` to `end`:
        the positions of others depend on their number alone. Without `which` the first ones are taken for those.
        """
        parts, begins, shift = [], 0, 0
        for feature in record.mm_features:
            mark = marked(feature)
            assert mark is not None
            ((start, stop),) = visual_ranges([feature])
            kept = self.kept.places.get(feature.identifier) if which else None
            if kept is None:
                if start < end and stop > first:
                    raise RuntimeError(f"Which visual tokens of {record.req_id} stayed is not known.")
                kept = np.arange(stop - start)
            parts += [np.arange(begins, start) + shift, start + shift + kept]
            begins, shift = stop, shift + mark.length - (stop - start)
        parts.append(np.arange(begins, record.num_prompt_tokens) + shift)
        return np.concatenate(parts), record.num_prompt_tokens + shift


def _in_whole(feature: Any, offset: int) -> Any:
    """The picture as it stood in the whole prompt."""
    mark = marked(feature)
    assert mark is not None
    return replace(feature, mm_position=type(feature.mm_position)(offset=offset, length=mark.length))
