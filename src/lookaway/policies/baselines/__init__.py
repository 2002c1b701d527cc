"""The field's training-free baselines, one file each, written from their papers' descriptions.

Which tokens a method ranks first and how many it keeps where are its own; carrying it out (removal, cache, masks) is
the engine's, the same for all. What differs from the published method is said in each docstring and card.
"""

from . import autoprune, dart, fastv, fitprune, pyramiddrop, random_keep, shortv, sparsevlm, uniform_keep, vtw

__all__ = [
    "autoprune",
    "dart",
    "fastv",
    "fitprune",
    "pyramiddrop",
    "random_keep",
    "shortv",
    "sparsevlm",
    "uniform_keep",
    "vtw",
]
