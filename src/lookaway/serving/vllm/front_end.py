"""What happens to a request before vLLM's scheduler sees it: it is checked, and its prompt shortened."""

from __future__ import annotations

from typing import Any

from .metrics import Savings
from .pictures import KnownGrids, grid_of
from .refusals import RequestRefused, check_config, check_request
from .settings import Settings
from .short_prompt import MARK, is_marked, shorten
from .sizes import sizes_of
from .vllm_settings import acts_inside, whole_prompts

__all__ = ["FrontEnd"]


class FrontEnd:
    """One an input processor.

    Raises:
        LookawayError: the server cannot run with these settings (`refusals.check_config`).
    """

    def __init__(self, vllm_config: Any, settings: Settings) -> None:
        check_config(vllm_config, settings)
        self.settings, model = settings, vllm_config.model_config
        self.grid, self.most_tokens = grid_of(model), model.max_model_len
        self.known_grids = KnownGrids()
        self.looks_inside = acts_inside(vllm_config, settings) and whole_prompts(vllm_config)
        """Policies may also look at prompts inside the decoder."""
        self.savings = Savings(sizes_of(model))

    def check(self, params: Any, resumable: bool) -> None:
        """Refuse a request before any work was done for it.

        Raises:
            RequestRefused: `refusals.check_request` says when.
        """
        check_request(self.settings, params, resumable)

    def forget(self, cache: Any, prompt: Any) -> None:
        """A refused prompt's pictures: the front end's cache of processed pictures is to send their data the next
        time, since the engine never got them.

        Args:
            cache: vLLM's, or None.
            prompt: what vLLM's renderer made of the request.
        """
        hashes = prompt.get("mm_hashes") if isinstance(prompt, dict) else None
        for picture in (picture for pictures in (hashes or {}).values() for picture in pictures):
            if cache is not None:
                cache.invalidate(picture)

    def shorten(self, request: Any) -> None:
        """Take the placeholder tokens out of an `EngineCoreRequest` that its policy drops before the decoder.

        Raises:
            RequestRefused: a picture's own identifier looks like one of the plugin's; the policy serves pictures alone;
                or how many tokens stay is not known beforehand, and this server cannot drop them inside the decoder.
        """
        if any(map(is_marked, request.mm_features or ())):  # a client may choose identifiers (multi_modal_uuids)
            raise RequestRefused(f"A picture's uuid may not begin with {MARK!r}: choose another one.")
        for feature in request.mm_features or ():  # whatever the policy: the next time their data may be missing
            self.known_grids(feature, feature.mm_position.get_num_embeds())
        name = self.settings.name_for(request.sampling_params)
        policy = self.settings.policy(name)
        if policy is None or not request.mm_features:
            return
        others = sorted({feature.modality for feature in request.mm_features} - {"image"})
        if others:
            raise RequestRefused(
                f"A lookaway policy serves pictures, not input of the kind {', '.join(others)}. Choose the policy "
                "'off' for this request."
            )
        before = self.settings.before(name)
        if before is None:
            return
        layers = self.settings.num_layers
        counts = shorten(request, name, before, layers, self.grid, self.known_grids, self.most_tokens)
        if counts is not None:
            all_of_it = self.settings.inside(name, shortened=True) is None
            self.savings.count_before(name, len(request.prompt_token_ids), counts, all_of_it)
        elif not self.looks_inside or policy.renumbers() or policy.needs_vision():
            raise RequestRefused(
                f"How many tokens of each picture the policy {name!r} keeps is not known before the model sees the "
                f"{len(request.mm_features)} pictures of this prompt. Send one picture, choose another policy or "
                "'off', or start the server such that tokens can leave inside the decoder: --enforce-eager "
                "--no-enable-chunked-prefill, and a policy with positions='original'."
            )
