"""Tiny models that several tests share; who changes a model makes one of its own with `tiny`."""

from functools import cache

import pytest
import transformers

from lookaway.anatomy import tiny as shipped
from lookaway.anatomy.tiny import IMAGE, TINY, TinyModel
from lookaway.anatomy.tiny.llava import squares
from lookaway.anatomy.tiny.sizes import Recipe
from lookaway.models.tiny_models import tiny_lavin

LAVIN = Recipe(None, squares, lengths=lambda model, images, heights: [2] * len(heights), any_size=False)
"""Inputs of this package's own class, whose tiny model `anatomy` does not import."""
RECIPES = {**TINY, "lavin": LAVIN}


def tiny(family, num_layers=4, seed=0, attn_implementation="sdpa"):
    """`lookaway.anatomy.tiny.tiny` of every family, also of LaVIN."""
    if family != "lavin":
        return shipped.tiny(family, num_layers, seed, attn_implementation)
    model = tiny_lavin(num_layers, seed, attn_implementation, image_token_id=IMAGE, adapter_dropout=0.0)
    return TinyModel("lavin", model, seed, LAVIN)


tiny_once = cache(tiny)

OLD = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 17)
"""On the oldest transformers some calls fail without lookaway; those tests are skipped there, with the reason."""

THOROUGH = ("llava", "llava_next", "qwen3_vl", "gemma3")
"""Families on which every policy and batch is tried; the others get those that find most."""
MOST_TELLING = ("keep-but-ask", "exit-rows", "thin", "before")

families = pytest.mark.parametrize("family", list(RECIPES))
thorough_families = pytest.mark.parametrize("family", [name for name in RECIPES if name in THOROUGH])


def cases(names, batches=("single", "left_padded")):
    """(family, batch, policy's name) for pytest: all for the thorough families, the telling ones for the others."""
    for family in RECIPES:
        for batch in ("single", "left_padded", "right_padded") if family in THOROUGH else batches:
            for name in names:
                if family in THOROUGH or name in MOST_TELLING:
                    yield family, batch, name


def named(names):
    """(family, policy's name): as `cases`, for tests that have one batch of their own."""
    return [(family, name) for family, batch, name in cases(names) if batch == "single"]
