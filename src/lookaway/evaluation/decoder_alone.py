"""The decoder's prefill by itself, from embeddings that hold the image: what a policy changes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..anatomy.find import anatomy_of
from ..anatomy.inputs import IMAGE_INPUTS

__all__ = ["DecoderAlone"]

OF_THE_CALL = ("past_key_values", "use_cache")
"""Arguments of a decoder that belong to the one call, not to the prompt."""


class DecoderAlone:
    """A prefill that starts from what the backbone hands its decoder: embeddings that already hold the image, and with
    them positions, masks and whatever else this family gives. So the decoder computes what it does in a live run."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model, self.anatomy = model, anatomy_of(model)
        self.given: dict[str, Any] = {}
        self.features: Any = None

        def remember(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.given.update({name: value for name, value in kwargs.items() if name not in OF_THE_CALL})

        handle = self.anatomy.language_model.register_forward_pre_hook(remember, with_kwargs=True)
        try:
            with torch.no_grad():
                model(**inputs, use_cache=False)
                if self.anatomy.refuses_without_images:
                    images = {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}
                    self.features = self.anatomy.backbone.get_image_features(**images)  # type: ignore[operator]
        finally:
            handle.remove()
        names = ("input_ids", "attention_mask", *(IMAGE_INPUTS if self.features is not None else ()))
        self.inputs = {key: value for key, value in inputs.items() if key in names}

    def last(self, tokens: int, rows: int | None = None) -> Callable[[], None]:
        """A prompt of the last `tokens` columns of the first `rows` rows (None: of all): what a decoder costs at that
        size. What it computes does not matter, so it gets embeddings alone."""
        short = {key: self.inputs[key][:rows, -tokens:] for key in ("input_ids", "attention_mask")}
        if self.features is not None:  # a part of a picture's tokens would be refused
            visual = self.anatomy.layout(short["input_ids"]).visual
            short["input_ids"] = short["input_ids"].masked_fill(visual, 0)
        return partial(self._run, short, {"inputs_embeds": self.given["inputs_embeds"][:rows, -tokens:]})

    def __call__(self) -> None:
        self._run(self.inputs, self.given)

    def _run(self, inputs: dict[str, Any], given: dict[str, Any]) -> None:
        """The whole model on token ids, with `given` handed to the decoder in place of what they would give."""

        def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, **given}

        hooked: Any = self.anatomy.language_model
        handle = hooked.register_forward_pre_hook(swap, with_kwargs=True, prepend=True)  # before an attached policy
        backbone: Any = self.anatomy.backbone
        if self.features is not None:  # made once: what the tower costs is no part of this
            backbone.get_image_features = lambda *args, **kwargs: self.features
        try:
            self.model(**inputs, use_cache=True, logits_to_keep=1)
        finally:
            vars(backbone).pop("get_image_features", None)
            handle.remove()
