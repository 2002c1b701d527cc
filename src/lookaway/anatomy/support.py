"""The support table, from what the code says: `python -m lookaway.anatomy.support > docs/support.md`."""

from __future__ import annotations

from . import families  # noqa: F401  (registers them)
from .registry import REFUSED, SUPPORT

__all__ = ["support_page"]

HEAD = """# Which models

Written by `python -m lookaway.anatomy.support` from the code; a test holds this page to it. `la.anatomy(model)` says
what was found in a model at hand.

Every family in the first table passes the same proof on a tiny random model of its own classes (`tests/engine`), on
transformers' own code, in fp32, for SDPA and eager attention where the table has both, for one prompt and for batches
of unequal prompts with left padding, a row of two pictures and a row of none: keeping everything changes no bit;
removal equals masking to 1e-5, in prefill and over 8 decoded tokens; a batch equals its rows one by one; a cached run
equals an uncached one; each layer's cache is as long as the trace says; decoded tokens have the positions of the
unpruned run; after detaching all is as before. Pictures are tested; of videos only the placeholders are known. The
released checkpoints themselves were **not** run for this page. (LaVIN's proof is in `tests/models`.) *flash* means
that the logic of two-dimensional masks was judged on a CPU stand-in, for some families, and never on the kernels.

| family | `model_type` | written for | attention | refused |
|---|---|---|---|---|
"""

MIDDLE = """
Refused for every family: static and compiled caches, flex attention, continuous batching, removal before
layer 1.

## Not supported

| family | `model_type` | why |
|---|---|---|
"""

END = """
## Others

A model that is in neither table is looked at by a rule: one decoder with `layers` and `norm` beside `lm_head`, the
usual arguments and no more, full or sliding-window attention in every layer, an image token in the config. What matches
must pass a dry run before its first policy is attached (keeping everything changes no bit; removal equals masking,
behind the cache too); what does not is refused, and told why. The dry run has no picture, so it proves the decoder, not
what a family may do to its masks around real images. [adding-a-model.md](adding-a-model.md) tells how to add a family.
"""


def support_page() -> str:
    """The text of docs/support.md."""
    page = HEAD
    for model_type, known in SUPPORT.items():
        checkpoints = ", ".join(f"`{checkpoint}`" for checkpoint in known.checkpoints)
        page += f"| {known.name} | `{model_type}` | {checkpoints} | {known.attention} | {known.refuses} |\n"
    page += MIDDLE
    for model_type, (name, reason) in REFUSED.items():
        page += f"| {name} | `{model_type}` | {reason} |\n"
    return page + END


if __name__ == "__main__":
    import sys

    sys.stdout.write(support_page())
