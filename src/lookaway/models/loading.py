"""A model and its processor, from a folder, the hub or the default model's name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.classifiers import refuse_classifier
from ..core.errors import LookawayError, PreparationError, SettingsError, UnsupportedModel
from ..core.hub import may_be_hub_id
from ..core.processes import processes

if TYPE_CHECKING:
    from .layouts.plan import Plan

__all__ = ["MINI", "device_of_process", "load_config", "load_model", "load_processor"]

MINI = {"lookaway-mini": "exit-aware", "lookaway-mini-plain": "plain"}
"""Names of the default models -> how they were aligned."""


def load_model(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    attention: str | None = None,
    vision_tower: str | Path | None = None,
    conversation: str | None = None,
) -> tuple[Any, Any]:
    """Load a vision-language model, in eval mode, and its processor.

    Besides transformers' own models these are the published LLaVA, VILA, Eagle and InternVL checkpoints in their
    authors' layouts (docs/models.md), recognised by their config's keys. Their processors take the authors' prompt as
    `text=`, with `<image>` where the picture stands.

    Args:
        path_or_id: a folder, a hub id, or 'lookaway-mini' / 'lookaway-mini-plain' (prepared on first use).
        dtype: torch dtype, its name, or 'auto' for the checkpoint's own; None: fp32 on a CPU, 'auto' elsewhere.
        device: None: a GPU where there is one; of several processes (LOCAL_RANK) each takes its own.
        attention: attention implementation; None: transformers' choice (SDPA).
        vision_tower: folder of the vision tower, where a published checkpoint only names it and it does not lie beside
            the model.
        conversation: prompt form of a published (or converted) checkpoint's chat template; None: the published one.

    Raises:
        PreparationError: the model cannot be found, fetched or read; the text says what to do.
        UnsupportedModel: it is a text-only model, a classifier, or a published layout that cannot be read right.
        SettingsError: a dtype or prompt form that is not known, or a setting that this model has no use for.
    """
    device = device_of_process(device, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    with processes().first_in_turn():  # what has to be fetched or prepared is so once
        return _loaded(path_or_id, dtype, device, attention, vision_tower, conversation)


def device_of_process(device: Any, gpus: int, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The device of this process.

    Args:
        device: as asked for; None: a GPU where there is one.
        gpus: how many this process sees.
        environment: LOCAL_RANK is the number of this process on its machine, as torchrun sets it.

    Raises:
        SettingsError: it sees several GPUs, and fewer than there are processes on this machine.
    """
    wanted = torch.device(device or ("cuda" if gpus else "cpu"))
    local = environment.get("LOCAL_RANK", "")
    if wanted.type != "cuda" or wanted.index is not None or gpus < 2 or not local.isdigit():
        return wanted  # a launcher that shows each process one GPU has chosen already
    if int(local) >= gpus:
        raise SettingsError(
            f"Process {local} of this machine has no GPU of its own: {gpus} are visible. Start {gpus} processes "
            f"(--nproc-per-node {gpus}), or give --device cpu."
        )
    return torch.device("cuda", int(local))


def _loaded(
    path_or_id: str | Path, dtype: torch.dtype | str | None, device: torch.device, attention: str | None,
    vision_tower: str | Path | None, conversation: str | None,
) -> tuple[Any, Any]:  # fmt: skip
    from transformers import AutoConfig

    from .layouts.converted import model_class_of, processor_of
    from .layouts.plan import build
    from .registration import register_own_models

    register_own_models()
    name, source = str(path_or_id), _source(path_or_id)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    with _Explained(name), _no_bars():
        plan = _published(source, vision_tower, conversation)
        if plan is not None:
            model = build(plan, _torch_dtype(dtype, plan.dtype), attention)
            model.name_or_path = model.config._name_or_path = source  # as from_pretrained says where a model is from
            return model.to(device), plan.processor
        if vision_tower is not None:
            raise SettingsError(f"{name} holds its vision tower itself: leave out vision_tower ({vision_tower}).")
        config = AutoConfig.from_pretrained(source)
        refuse_classifier(config)
        if not any(hasattr(config, key) for key in ("vision_config", "image_token_id", "image_token_index")):
            raise UnsupportedModel(
                f"{name} is a text-only model ({config.model_type}): it has no visual tokens that could leave. Give a "
                "vision-language model, e.g. llava-hf/llava-1.5-7b-hf or lookaway-mini."
            )
        model, found = model_class_of(config).from_pretrained(
            source, dtype=dtype, output_loading_info=True, **({"attn_implementation": attention} if attention else {})
        )
        _check_complete(name, found["missing_keys"])
        processor = processor_of(config, source, conversation)
    return model.to(device).eval(), processor


def _check_complete(name: str, missing: Collection[str]) -> None:
    """Raise PreparationError where weights were not in the files: transformers draws those at random."""
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise PreparationError(
            f"{name} does not hold {len(missing)} of the model's weights ({shown}), and "
            "transformers would draw them at random. Copy or download the model again."
        )


def load_config(path_or_id: str | Path) -> Any:
    """The model's config alone: what is known of it before its weights are read.

    Raises:
        PreparationError, UnsupportedModel: as for `load_model`.
    """
    from transformers import AutoConfig

    from .registration import register_own_models

    register_own_models()
    source = _source(path_or_id)
    with _Explained(str(path_or_id)):
        plan = _published(source)
        config = plan.config if plan is not None else AutoConfig.from_pretrained(source)
        refuse_classifier(config)
        return config


def load_processor(
    path_or_id: str | Path, *, vision_tower: str | Path | None = None, conversation: str | None = None
) -> tuple[Any, Any]:
    """The model's config and its processor, without its weights.

    Raises:
        PreparationError, UnsupportedModel, SettingsError: as for `load_model`; also where the processor needs a
            package that is not installed.
    """
    from transformers import AutoConfig

    from .layouts.converted import processor_of
    from .registration import register_own_models

    register_own_models()
    source = _source(path_or_id)
    with _Explained(str(path_or_id)):
        plan = _published(source, vision_tower, conversation)
        if plan is not None:
            return plan.config, plan.processor
        config = AutoConfig.from_pretrained(source)
        return config, processor_of(config, source, conversation)


def _published(source: str, vision_tower: str | Path | None = None, conversation: str | None = None) -> Plan | None:
    """What a checkpoint in its authors' layout becomes; None for all others."""
    from .layouts.detection import plan_for
    from .layouts.fetching import published_folder

    folder = published_folder(source)
    return plan_for(folder, vision_tower, conversation) if folder is not None else None


def _torch_dtype(dtype: torch.dtype | str, stored: torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    found = stored if dtype == "auto" else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise SettingsError(f"dtype {dtype!r} is not one of torch's, e.g. float32, bfloat16, float16, or 'auto'.")
    return found


def _source(path_or_id: str | Path) -> str:
    """The folder or hub id that transformers is given."""
    from .mini.model import prepare_mini

    name = str(path_or_id)
    if name in MINI:
        return str(prepare_mini(MINI[name]))
    if not Path(name).exists() and not may_be_hub_id(name):
        raise PreparationError(
            f"There is no model folder at {name}. Give a folder, a hub id (user/name), or lookaway-mini, the default "
            "model, which needs no hub."
        )
    return name


@contextmanager
def _no_bars() -> Iterator[None]:
    """Reading a local folder takes a second: no progress bar, and whatever was set before comes back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _Explained:
    """Turns what transformers, the hub or a damaged file raise into one clear error."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, LookawayError):
            return  # it says what is wrong by itself
        if isinstance(error, ImportError):
            raise PreparationError(f"{self.name} needs a package that is not installed: {error}") from error
        if isinstance(error, OSError | ValueError | KeyError) or type(error).__name__ == "SafetensorError":
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            folder = Path(self.name)
            if folder.is_dir():
                cure = "Check that the folder is a complete Hugging Face model with its processor, or copy it again."
            else:
                cure = (
                    "It is no folder here, and the hub did not give it: check the name and the network, or download "
                    "the model elsewhere and give its folder. The default model needs no hub: --model lookaway-mini."
                )
            raise PreparationError(f"Cannot load {self.name}: {first} {cure}") from error
