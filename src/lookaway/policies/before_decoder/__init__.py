"""Methods that choose before the decoder (k = 0), one file each: what leaves never enters it, so the prompt is shorter.

The time of the vision tower is not saved: it has run by then.
"""

from . import cdpruner, divprune, downsample, visionzip

__all__ = ["cdpruner", "divprune", "downsample", "visionzip"]
