"""`build_shape`: a published model's shape with random weights, and a prompt for it; no hub, no processor."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import SettingsError
from ...core.random_state import seeded
from . import recipes
from .recipes import IMAGE, Built, Pictures
from .sizes import Decoder, Tower, check_scale

__all__ = ["SHAPES", "PublishedShape", "Shaped", "build_shape", "parameters_of", "shape_named"]


@dataclass(frozen=True)
class PublishedShape:
    """One published model without its weights."""

    source: str
    """Hub id of the checkpoint whose config.json has these sizes."""
    parameters: int
    """Parameters of that checkpoint, as the hub counts them."""
    decoder: Decoder
    tower: Tower
    recipe: Callable[[Decoder, Tower], Built]
    pictures: Pictures
    picture: str
    """The picture of a prompt in words."""
    visual_tokens: int
    """Visual tokens of that picture."""
    typed: bool = False
    """The processor gives token types (`mm_token_type_ids`)."""


_CLIP, _SIGLIP = Tower(24, 16, 1024, 4096), Tower(27, 16, 1152, 4304)
_VICUNA = Decoder(32, 32, 32, 128, 11008, 32064)
SHAPES: dict[str, PublishedShape] = {
    "llava-1.5-7b": PublishedShape(
        "llava-hf/llava-1.5-7b-hf", 7_063_427_072, _VICUNA, _CLIP, recipes.llava, recipes.squares(336),
        "336 x 336", 576,
    ),
    "llava-1.5-13b": PublishedShape(
        "llava-hf/llava-1.5-13b-hf", 13_351_494_656, Decoder(40, 40, 40, 128, 13824, 32064), _CLIP, recipes.llava,
        recipes.squares(336), "336 x 336", 576,
    ),
    "llava-next-7b": PublishedShape(
        "llava-hf/llava-v1.6-vicuna-7b-hf", 7_063_431_168, _VICUNA, _CLIP, recipes.llava_next,
        recipes.tiles(5, 336, "next"), "672 x 672, four tiles and a thumbnail", 2928,
    ),
    "internvl3-8b": PublishedShape(
        "OpenGVLab/InternVL3-8B-hf", 7_944_373_760, Decoder(28, 28, 4, 128, 18944, 151674), _CLIP, recipes.internvl,
        recipes.tiles(7, 448), "1344 x 896, six tiles and a thumbnail", 1792,
    ),
    "qwen2.5-vl-7b": PublishedShape(
        "Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, Decoder(28, 28, 4, 128, 18944, 152064),
        Tower(32, 16, 1280, 3420), recipes.qwen2_5_vl, recipes.patches(74, 74, 14), "1036 x 1036", 1369, typed=True,
    ),
    "qwen3-vl-8b": PublishedShape(
        "Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, Decoder(36, 32, 8, 128, 12288, 151936), _SIGLIP,
        recipes.qwen3_vl, recipes.patches(64, 64, 16), "1024 x 1024", 1024, typed=True,
    ),
    "smolvlm-2b": PublishedShape(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2_246_784_880, Decoder(24, 32, 32, 64, 8192, 49280), _SIGLIP,
        recipes.smolvlm, recipes.tiles(17, 384, "rows"), "1536 x 1536, sixteen tiles and a thumbnail", 1377,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shaped:
    """A model of a published shape, in eval mode."""

    name: str
    shape: PublishedShape
    model: Any

    def inputs(self, batch_size: int = 1, text_tokens: int = 64) -> dict[str, Tensor]:
        """A prompt of one picture and random words, on the model's device: half of the words before the picture.

        Args:
            text_tokens: words of the prompt.

        Returns:
            Keyword arguments of `forward`; `input_ids` is int64 [batch_size, visual_tokens + text_tokens].
        """
        if text_tokens < 2:
            raise SettingsError(f"--text-tokens must be at least 2, not {text_tokens}.")
        draw = torch.Generator().manual_seed(0)
        words = torch.randint(10, 1000, (batch_size, text_tokens), generator=draw)
        image = torch.full((batch_size, self.shape.visual_tokens), IMAGE)
        ids = torch.cat([words[:, : text_tokens // 2], image, words[:, text_tokens // 2 :]], dim=1)
        pictures = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in self.shape.pictures(batch_size, draw).items()
        }
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pictures}
        if self.shape.typed:
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        return {name: value.to(self.model.device) for name, value in inputs.items()}


def shape_named(name: str) -> PublishedShape:
    """Raises SettingsError for an unknown name; the text gives the near misses."""
    if name not in SHAPES:
        near = difflib.get_close_matches(name.lower(), SHAPES, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise SettingsError(f"No published shape {name!r}.{hint} Known: {', '.join(SHAPES)}.")
    return SHAPES[name]


def build_shape(
    name: str,
    scale: float = 1.0,
    *,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    attention: str | None = None,
    seed: int = 0,
) -> Shaped:
    """A published shape with random weights, made where it will run.

    Args:
        scale: of layers and widths, see `Decoder.scaled`; pictures and visual tokens are the published ones.
        dtype: None: float32 on a CPU, bfloat16 elsewhere.
        device: None: a GPU where there is one.
        attention: attention implementation; None: SDPA.

    Raises:
        SettingsError: unknown name, scale or dtype, or the weights do not fit in memory; the text names the cure.
    """
    shape = shape_named(name)
    check_scale(scale)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        found = torch.float32 if device.type == "cpu" else torch.bfloat16
    if not isinstance(found, torch.dtype):
        raise SettingsError(f"--dtype {dtype!r} is not one of torch's, e.g. float32 or bfloat16.")
    _check_memory(name, parameters_of(name, scale) * found.itemsize, device)
    model_class, config = shape.recipe(shape.decoder.scaled(scale), shape.tower.scaled(scale))
    with seeded(seed, device), torch.device(device):
        model = model_class._from_config(config, dtype=found, attn_implementation=attention or "sdpa")
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None  # answers are as long as was asked for
    return Shaped(name, shape, model.eval())


def parameters_of(name: str, scale: float = 1.0) -> int:
    """Parameters of a shape, counted without memory for them."""
    shape = shape_named(name)
    model_class, config = shape.recipe(shape.decoder.scaled(scale), shape.tower.scaled(scale))
    with torch.device("meta"):
        model = model_class._from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def _check_memory(name: str, needed: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if free is not None and needed > 0.9 * free:
        raise SettingsError(
            f"{name} at this --scale and --dtype has {needed / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB are "
            f"free on {device}. Give a smaller --scale, e.g. {max(0.05, round(0.6 * (free / needed) ** 0.4, 2))}, or "
            "--dtype bfloat16."
        )


def _free_memory() -> int | None:
    """Bytes of memory that a process can have; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
