"""One step of vLLM's runner, as far as the decoder must know it: whose rows these are. Host numbers only.

Everything that is needed of a step without looking at states is read from the runner's own host copies, so that no
layer waits for the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.layout import ImageSpan
from .pictures import spans_of, visual_ranges
from .settings import Settings
from .short_prompt import marked

__all__ = ["Held", "StepRequest", "requests_of"]


@dataclass(eq=False)
class Held:
    """What lasts of a request from step to step."""

    source: Any
    """The runner's own record of the request; another one under the same id is another request."""
    policy: str
    shortened: bool
    """Its prompt was shortened before the decoder."""
    exit_at: int | None
    """The layer before which all visual tokens leave, where that is known without looking."""
    visual: NDArray[np.bool_]  # [P]
    """Which tokens of the prompt are visual."""
    spans: tuple[ImageSpan, ...]
    """Its pictures."""
    gone: NDArray[np.int64]  # [L]
    """Tokens of earlier steps that each layer does not hold."""
    looks_again: bool | None = None
    """Whether it was unsure of its first answer token, where its policy asks for that; None: not known yet. What was
    found once is kept: after a preemption the same answer is computed again."""
    first_look_flops: int = 0
    """What the first pass needed that a second one replaced."""


@dataclass(eq=False)
class StepRequest:
    """One request's rows in this step. Rows of a request are adjacent and in the order of its tokens."""

    held: Held
    start: int
    """First row."""
    rows: int
    done: int
    """Tokens computed in earlier steps."""
    prompt: int
    """Length of the whole prompt. A preempted request computes its answer again, too."""

    @property
    def visual(self) -> NDArray[np.bool_]:  # [rows]
        """Which of the rows are visual."""
        inside = self.held.visual[self.done : self.done + self.rows]
        return np.pad(inside, (0, self.rows - len(inside)))

    @property
    def whole(self) -> bool:
        """The step has the request's whole prompt."""
        return self.done == 0 and self.rows >= self.prompt


def requests_of(
    runner: Any, held: dict[str, Held], settings: Settings, grid: tuple[int, int] | None = None
) -> list[StepRequest]:
    """The requests of a step of the V1 runner, in the order of their rows.

    A request may begin behind tokens that the prefix cache holds, and begins again after a preemption. Under a fixed
    exit what the layers hold follows from the tokens before.

    Args:
        held: request id -> what its layers hold. Requests that begin (again) are reset in it, and those that ended are
            taken out.
        settings: the server's policies.
        grid: rows and columns of each picture's visual tokens, where the model gives all pictures the same.

    Raises:
        RuntimeError: a request whose policy looks at the prompt begins behind its first token.
    """
    batch = runner.input_batch
    starts = runner.query_start_loc.np
    found = []
    for row, request_id in enumerate(batch.req_ids):
        record = runner.requests[request_id]
        done = int(batch.num_computed_tokens_cpu[row])
        state = held.get(request_id)
        if state is None or state.source is not record:
            state = held[request_id] = _begin(record, settings, grid)
            if done and state.exit_at is None and state.visual.any():
                raise RuntimeError(
                    f"Request {request_id} begins at token {done}, though its policy {state.policy!r} looks at the "
                    "whole prompt."
                )
        if state.exit_at is not None:
            state.gone[state.exit_at :] = state.visual[:done].sum()
        elif done == 0:  # it begins, or begins again after preemption
            state.gone[:] = 0
        start, stop = int(starts[row]), int(starts[row + 1])
        found.append(StepRequest(state, start, stop - start, done, record.num_prompt_tokens))
    for request_id in held.keys() - runner.requests.keys():
        del held[request_id]
    return found


def _begin(record: Any, settings: Settings, grid: tuple[int, int] | None) -> Held:
    visual = np.zeros(record.num_prompt_tokens, dtype=bool)
    for start, stop in visual_ranges(record.mm_features):
        visual[start:stop] = True
    name, shortened = settings.name_for(record.sampling_params), any(map(marked, record.mm_features))
    spans = spans_of(visual, record.mm_features, grid)
    gone = np.zeros(settings.num_layers, dtype=np.int64)
    return Held(record, name, shortened, settings.exit_of(name, shortened), visual, spans, gone)
