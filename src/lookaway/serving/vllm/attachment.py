"""What is fastened to one of vLLM's model runners: the policies, the model's decoder, and what its KV cache holds."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from .choosing import KeptPictures
from .decoder import NarrowedDecoder
from .kept_positions import KeptPositions
from .kv_groups import exit_spec, first_text_layer
from .metrics import Savings
from .narrowing import Group, groups_of
from .pictures import grid_of
from .refusals import check_config, check_model, check_weights
from .reports import Reports
from .settings import Settings
from .short_prompt import marked
from .sizes import sizes_of
from .step import Held, StepRequest, requests_of
from .tower import watched
from .vllm_settings import acts_inside

__all__ = ["Attachment", "attach"]


def attach(runner: Any, settings: Settings) -> Attachment:
    """Check the runner's model and settings, and make its attachment.

    Raises:
        LookawayError: what `refusals.py` refuses.
    """
    check_config(runner.vllm_config, settings)
    check_weights(runner.vllm_config.model_config, settings)
    inside = acts_inside(runner.vllm_config, settings)
    if inside and runner.vllm_config.compilation_config.cudagraph_mode.value:
        warnings.warn(
            "CUDA graphs of decoding steps under lookaway's policies were never run on a GPU. Compare answers with "
            "those of a server that was started with --enforce-eager.",
            UserWarning,
            stacklevel=2,
        )
    return Attachment(runner, settings, check_model(runner.get_model()) if inside else None)


class Attachment:
    """One a runner. `prepare` and `forward` are called in each step, one after the other.

    Args:
        decoder: vLLM's; None: visual tokens leave before it only.
    """

    def __init__(self, runner: Any, settings: Settings, decoder: Any) -> None:
        self.runner, self.settings = runner, settings
        model = runner.vllm_config.model_config
        self.grid = grid_of(model)
        shape = sizes_of(model)
        self.decoder = None if decoder is None else NarrowedDecoder(decoder, settings, Savings(shape))
        self.slots: dict[str, Tensor] | None = None
        """Attention layer's name -> slot of each row of the step at hand, as vLLM's layers will find them."""
        self.requests: list[StepRequest] = []
        """Those of the step at hand."""
        self.reports = Reports(shape)
        self.held: dict[str, Held] = {}
        self._groups: dict[str, Group] | None = None
        self.kept = KeptPictures(settings, self.grid)
        self.positions = KeptPositions(settings, self.kept)
        before = [settings.before(name) for name in settings.policies]
        self._watches = any(policy is not None and policy.needs_vision() for policy in before)

    def kv_cache_specs(self, specs: dict[str, Any]) -> dict[str, Any]:
        """The runner's KV cache specs, layer name -> spec, with smaller ones where no visual token arrives."""
        if self.decoder is None:
            return specs
        first = first_text_layer(self.settings)
        behind = set(self.decoder.names[first:])
        return {name: exit_spec(spec, self.settings, first) if name in behind else spec for name, spec in specs.items()}

    def split_groups(self) -> None:
        """Before the runner makes its attention metadata builders."""
        if self.decoder is not None:
            self.decoder.steady.split(self.runner)
            self._groups = None

    def prepare(self, num_reqs: int, real: bool) -> None:
        """Before the runner builds a step's attention metadata.

        Args:
            num_reqs: of the step. real: it has requests; False: a step to warm up, or to capture a CUDA graph.
        """
        if self.decoder is None:
            return
        steady = self.decoder.steady
        if not real:
            steady.prepare_capture(self.runner, num_reqs, self.slots)
            return
        self.requests = requests_of(self.runner, self.held, self.settings, self.grid)
        steady.apply = False
        if not self.decoder.drops(self.requests):
            steady.prepare(self.runner, self.requests, self.slots)

    def encode(self, plain: Any, scheduled: Any) -> Any:
        """Run the vision tower on the pictures of a step (`plain`), and keep of each the tokens that stay.

        Args:
            scheduled: vLLM's `SchedulerOutput`.
        """
        if not self._marked(scheduled):
            return plain(self.runner, scheduled)
        with watched(self.runner, scheduled) if self._watches else nullcontext() as seen:
            outputs = plain(self.runner, scheduled)
        self.kept.choose(self.runner, scheduled, seen)
        return outputs

    def _marked(self, scheduled: Any) -> bool:
        return any(
            marked(self.runner.requests[request_id].mm_features[index])
            for request_id, indexes in scheduled.scheduled_encoder_inputs.items()
            for index in indexes
        )

    def forward(self, hidden: Tensor, positions: Tensor) -> Tensor | None:
        """The decoder's output for a step, [T, D]; None where vLLM's own decoder should run it.

        Args:
            hidden: [T, D], the embedded tokens of the step.
            positions: [T], or [3, T] where positions have three dimensions; corrected in place.
        """
        self.positions.correct(self.runner, positions)
        hidden_states = None
        if self.decoder is not None and not self.decoder.steady.apply:
            if self._groups is None:  # known when the KV cache was laid out
                self._groups = groups_of(self.runner)
            hidden_states = self.decoder.run(self.runner, self._groups, self.requests, hidden, positions)
        self.reports.note(self.runner, self.held)
        return hidden_states
