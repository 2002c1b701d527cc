"""Eagle-X5 (and X4) in its original layout -> transformers' LLaVA around `EagleVisionModel`."""

from __future__ import annotations

from ..layouts.plan import Plan
from ..layouts.request import Request
from ..layouts.rules import Source
from ..llava.assembly import ImageSide, llava_plan
from ..llava.keys import llava_rules
from ..llava.original import CLIP_MEAN, CLIP_STD, image_processor, open_decoder, refuse_variants
from .config import EagleVisionConfig
from .keys import KINDS, tower_rules, tower_sizes
from .register import register_eagle

__all__ = ["plan_eagle"]

SIDE, GRID = 1024, 32


def plan_eagle(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: another projector or a tower that is none of the five; the text names it.
        PreparationError: a part is missing.
    """
    register_eagle()
    config = request.config
    refuse_variants(config, "pad")
    shards = open_decoder(request.folder)
    names = str(config["mm_vision_tower"]).split(";")
    vision = EagleVisionConfig(
        tower_sizes(names, shards.specs, SIDE), SIDE, SIDE // GRID, int(config["mm_hidden_size"])
    )
    pictures = image_processor(config, SIDE, CLIP_MEAN, CLIP_STD)
    image = ImageSide(vision, pictures, GRID**2, SIDE // GRID, layer=-1, strategy="full")
    source = Source(shards, (*tower_rules([KINDS[name] for name in names]), *llava_rules()))
    return llava_plan("eagle-x5", request.folder, config, image, (source,), request.conversation)
