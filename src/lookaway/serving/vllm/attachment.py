"""What is fastened to one of vLLM's model runners: the policies, the model's decoder, and what its KV cache holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ...anatomy.families.shapes import decoder_shape, has_experts
from ...anatomy.from_config import shape_from_modules
from ...core.cost import DecoderShape
from .decoder import NarrowedDecoder
from .kv_groups import exit_spec, first_text_layer
from .metrics import Savings
from .narrowing import Group, groups_of
from .refusals import check_config, check_model, check_weights
from .settings import Settings
from .step import Held, requests_of

__all__ = ["Attachment", "attach"]


def attach(runner: Any, settings: Settings) -> Attachment:
    """Check the runner's model and settings, and make its attachment.

    Raises:
        LookawayError: what `refusals.py` refuses.
    """
    check_config(runner.vllm_config, settings)
    check_weights(runner.vllm_config.model_config, settings)
    return Attachment(runner, settings, check_model(runner.get_model()))


def sizes_of(model_config: Any) -> DecoderShape:
    """The decoder's sizes, from vLLM's `ModelConfig`; of mixtures of experts layer by layer, by those that a token
    visits."""
    text = model_config.hf_text_config
    if not has_experts(text):
        return decoder_shape(text, model_config.dtype.itemsize)
    return replace(shape_from_modules(model_config.hf_config)[0], dtype_bytes=model_config.dtype.itemsize)


class Attachment:
    """One a runner. `held` is the only thing that changes from step to step."""

    def __init__(self, runner: Any, settings: Settings, decoder: Any) -> None:
        self.runner, self.settings = runner, settings
        model = runner.vllm_config.model_config
        savings = Savings(sizes_of(model))
        self.decoder = NarrowedDecoder(decoder, settings, savings)
        self.held: dict[str, Held] = {}
        self._groups: dict[str, Group] | None = None

    def kv_cache_specs(self, specs: dict[str, Any]) -> dict[str, Any]:
        """The runner's KV cache specs, layer name -> spec, with smaller ones where no visual token arrives."""
        first = first_text_layer(self.settings)
        behind = set(self.decoder.names[first:])
        return {name: exit_spec(spec, self.settings, first) if name in behind else spec for name, spec in specs.items()}

    def forward(self, hidden: Tensor, positions: Tensor) -> Tensor | None:
        """The decoder's output for a step, [T, D]; None where vLLM's own decoder should run it.

        Args:
            hidden: [T, D], the embedded tokens of the step.
            positions: [T], or [3, T] where positions have three dimensions.
        """
        requests = requests_of(self.runner, self.held, self.settings.num_layers, self.settings.name_for)
        if not self.decoder.needed(requests):
            return None
        if self._groups is None:  # known when the KV cache was laid out
            self._groups = groups_of(self.runner)
        return self.decoder.run(self.runner, self._groups, requests, hidden, positions)
