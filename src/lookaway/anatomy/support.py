"""The support table, from what the code says: `python -m lookaway.anatomy.support > docs/support.md`."""

from __future__ import annotations

from . import families  # noqa: F401  (registers them)
from .registry import REFUSED, SUPPORT

__all__ = ["support_page"]

HEAD = """# Which models

This page is generated from the code (`python -m lookaway.anatomy.support`). `la.anatomy(model)` says what was found in
a model of yours.

Every family in the first table passes the same tests on a tiny random model of its own classes (`tests/engine`), on
transformers' own code, in fp32, for SDPA and eager attention where the table has both, for one prompt and for batches
of unequal prompts with left padding, a row of two images and a row of none: keeping everything changes no bit;
removal equals masking to 1e-5, in prefill and over 8 decoded tokens; a batch equals its rows one by one; a cached run
equals an uncached one; each layer's cache is as long as the trace says; decoded tokens have the positions of the
unpruned run; after detaching all is as before. Images are tested; of videos only the placeholders are known. The
released checkpoints themselves were **not** run for this page. (LaVIN's and Eagle2's tests are in `tests/models`.)
*flash* means that the logic of two-dimensional masks was tested on a CPU for some families, and never with the kernels.

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

For a model that is in neither table a general rule is tried: one decoder with `layers` and `norm` beside `lm_head`, the
usual arguments and no others, full or sliding-window attention in every layer, an image token in the config. A model
that matches must pass a check before its first policy is attached (keeping everything changes no bit; removal equals
masking, also in decoding). Other models are refused with the reason. The check has no image, so it covers the decoder,
but not what a family may do to its masks around real images. [adding-a-model.md](adding-a-model.md) tells how to add a
family.
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
