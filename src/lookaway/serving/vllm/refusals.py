"""What is refused, and what to do instead: better no server than one that answers wrongly."""

from __future__ import annotations

from typing import Any

from ...core.base_model import BaseModel
from ...core.errors import LookawayError, ModelMismatch, SettingsError, UnsupportedModel
from ...policies.before_decoder.downsample import Downsample
from .identity import model_at
from .pictures import has_grids
from .settings import Settings, parts_of
from .tower import has_tower
from .vllm_settings import inside_reasons, reasons

__all__ = [
    "ARCHITECTURES",
    "DECODERS",
    "RequestRefused",
    "check_config",
    "check_model",
    "check_request",
    "check_weights",
]

ARCHITECTURES = (
    "InternVLForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
)
"""Those that the exactness tests run, and whose outer model does nothing but call its decoder."""
DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
"""vLLM's decoder classes whose loop over layers `decoder.py` repeats."""
TESTED_VERSIONS = ("0.32",)


class RequestRefused(LookawayError):
    """A request asks for what cannot be had; the OpenAI server answers it with status 400."""


def check_config(vllm_config: Any, settings: Settings) -> None:
    """Refuse settings of vLLM under which the result would be wrong, all of them in one message.

    Raises:
        SettingsError: with the option to change for each.
        UnsupportedModel: the architecture is none of `ARCHITECTURES`.
        ModelMismatch: a policy was trained for another model.
    """
    check_version()
    _check_architecture(vllm_config.model_config, settings)
    wrong = reasons(vllm_config, settings)
    if not settings.all_before():
        wrong += inside_reasons(vllm_config, settings)
    if wrong:
        raise SettingsError("lookaway's vLLM plugin does not run with\n- " + "\n- ".join(wrong))


def check_version() -> None:
    """Refuse a version of vLLM that the plugin was not tested with: it builds on vLLM's internals."""
    import vllm

    if not vllm.__version__.startswith(TESTED_VERSIONS):
        raise SettingsError(
            f"lookaway's vLLM plugin was tested with vLLM {', '.join(TESTED_VERSIONS)}, not with {vllm.__version__}, "
            "whose internals may differ. Install that version, or start without additional_config['lookaway']."
        )


def _check_architecture(model_config: Any, settings: Settings) -> None:
    architecture = model_config.architectures[0]
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"lookaway's vLLM plugin does not support {architecture}; it supports {', '.join(ARCHITECTURES)}. Serve "
            "other models with transformers (la.attach)."
        )
    text = model_config.hf_text_config
    here = BaseModel(architecture, text.num_hidden_layers, text.hidden_size, text.vocab_size)
    for policy in settings.policies.values():
        if policy.base is not None:
            policy.base.check(here, settings.allow_other_model)
        if policy.renumbers() and model_config.uses_mrope:
            raise SettingsError(
                f"{policy!r} numbers anew what stays, and {architecture} counts positions in three dimensions, which "
                "are places in the picture. Use positions='original'."
            )
        if policy.needs_vision() and not has_tower(model_config):
            raise SettingsError(
                f"{policy!r} ranks by the vision tower's own attention, and this {architecture} has none whose tokens "
                "become visual tokens one by one. Use la.CDPruner(keep) or la.DivPrune(keep)."
            )
        if any(isinstance(part, Downsample) for part in parts_of(policy)) and not has_grids(model_config):
            raise SettingsError(
                f"{policy!r} needs the rows and columns of each picture's visual tokens, which {architecture} does not "
                "give. Use la.UniformKeep(keep, layer=0), or hand in smaller pictures."
            )


def check_weights(model_config: Any, settings: Settings) -> None:
    """Refuse a policy that was trained for other weights, however alike the model is. Reads the model's files once.

    Raises:
        ModelMismatch: with the setting that allows it all the same.
    """
    trained = [policy.base for policy in settings.policies.values() if policy.base is not None and policy.base.weights]
    if not trained or settings.allow_other_model:
        return
    here = model_at(model_config)
    for base in trained:
        try:
            base.check(here)
        except ModelMismatch as error:
            raise ModelMismatch(f"{error} In vLLM: 'allow_other_model': true beside 'policy'.") from None


def check_model(model: Any) -> Any:
    """The decoder of a loaded model (`layers`, `norm`), after a look at its classes.

    Raises:
        UnsupportedModel: the decoder's loop is not one that `decoder.py` repeats.
    """
    decoder: Any = getattr(getattr(model, "language_model", None), "model", None)
    name = type(decoder).__name__
    if name not in DECODERS:
        raise UnsupportedModel(
            f"The decoder of {type(model).__name__} is a {name}; lookaway's vLLM plugin knows {', '.join(DECODERS)}."
        )
    for layer in decoder.layers:
        if layer.self_attn.attn.sliding_window is not None:
            raise UnsupportedModel(
                f"A layer of this {name} has a sliding window, which the vLLM plugin does not serve."
            )
    return decoder


def check_request(settings: Settings, params: Any, resumable: bool) -> None:
    """Refuse a request whose answer would be wrong.

    Raises:
        RequestRefused: an unknown policy, log-probabilities of the prompt, or an input that is sent in parts.
    """
    try:
        name = settings.name_for(params)
        policy = settings.policy(name)
    except SettingsError as error:
        raise RequestRefused(str(error)) from None
    if policy is None:
        return
    if getattr(params, "prompt_logprobs", None) is not None:
        raise RequestRefused(
            "prompt_logprobs cannot be had with a lookaway policy: tokens that left have no output. Ask without, or "
            f"choose the policy {'off'!r} for this request."
        )
    if resumable:
        raise RequestRefused("A request whose input arrives in parts cannot be had with a lookaway policy.")
