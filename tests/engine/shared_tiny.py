"""Tiny models that several tests share; who changes a model makes one of its own with `tiny`."""

from functools import cache

import pytest
import transformers

from lookaway.anatomy.tiny import TINY, tiny

tiny_once = cache(tiny)

OLD = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 17)
"""On the oldest transformers some calls fail without lookaway; those tests are skipped there, with the reason."""

THOROUGH = ("llava", "llava_next", "qwen3_vl", "gemma3")
"""Families on which every policy and batch is tried; the others get those that find most."""
MOST_TELLING = ("keep-but-ask", "exit-rows", "thin", "before")

families = pytest.mark.parametrize("family", list(TINY))
thorough_families = pytest.mark.parametrize("family", [name for name in TINY if name in THOROUGH])


def cases(names, batches=("single", "left_padded")):
    """(family, batch, policy's name) for pytest: all for the thorough families, the telling ones for the others."""
    for family in TINY:
        for batch in ("single", "left_padded", "right_padded") if family in THOROUGH else batches:
            for name in names:
                if family in THOROUGH or name in MOST_TELLING:
                    yield family, batch, name


def named(names):
    """(family, policy's name): as `cases`, for tests that have one batch of their own."""
    return [(family, name) for family, batch, name in cases(names) if batch == "single"]
