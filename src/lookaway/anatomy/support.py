"""The support table, from what the code says: `python -m lookaway.anatomy.support > docs/support.md`."""

from __future__ import annotations

from ..core.classifiers import CLASSIFIERS
from . import families  # noqa: F401  (registers them)
from .families.by_pattern import BEFORE, INSIDE
from .registry import REFUSED, SUPPORT

__all__ = ["EVERY_TYPE", "WALKED", "state_of", "support_page"]

HEAD = """# Which models

This page is generated from the code (`python -m lookaway.anatomy.support`). `la.anatomy(model)` says what was found in
a model of yours.

Every family in the first table passes the same tests on a tiny random model of its own classes (`tests/engine`), on
transformers' own code, in fp32, for SDPA and eager attention where the table has both, for one prompt and for batches
of unequal prompts with left padding, a row of two images and a row of none: keeping everything changes no bit;
removal equals masking to 1e-5, in prefill and over 8 decoded tokens; a batch equals its rows one by one; a cached run
equals an uncached one; each layer's cache is as long as the trace says; decoded tokens have the positions of the
unpruned run; after detaching all is as before. Images are tested; videos are (`tests/engine/test_videos.py`) on
Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, GLM-4.1V, LLaVA-OneVision and LLaVA-NeXT-Video; SmolVLM's frames are pictures,
tested on what its own processor makes of videos (`tests/engine/test_smolvlm_videos.py`).
The released checkpoints themselves were **not** run for this page. (Eagle2's tests are in `tests/models`.)
*flash* means that the logic of two-dimensional masks was tested on a CPU for some families, and never with the kernels.

| family | `model_type` | written for | attention | refused |
|---|---|---|---|---|
"""

BEFORE_ONLY = """
Refused for every family: models that are compiled as a whole, flex attention, continuous batching, removal before
layer 1. Static caches: [batches.md](batches.md#static-caches-and-compiled-decoding).

## Before the decoder only

A shorter prompt is right on any decoder, so visual tokens may leave *before* it (`la.CDPruner`, `la.DivPrune`,
`la.UniformKeep(keep, layer=0)`) also where removal inside it cannot be proven. These families pass their own tests
(`tests/engine/test_entry.py`): the decoder called by hand with each row's shorter prompt, at the original positions,
gives the same states to 1e-5 (fp32), for one prompt and for padded batches with pictures, and for the tokens decoded
behind them. Sliding windows count places in the shorter prompt. What needs the inside (`la.reference`, exits, skipped
attentions, tapes) is refused with the reason; `lookaway fit` tries the methods before the decoder alone, and says so.

| family | `model_type` | attention | why not inside |
|---|---|---|---|
"""

ASKED_FOR = {
    "Cohere 2 Vision (Command A Vision)": "cohere2_vision",
    "DeepSeek-OCR 2": "deepseek_ocr2",
    "Gemma 4": "gemma4",
    "GLM-4.5V": "glm4v_moe",
    "GLM-4.6V": "glm46v",
    "GLM-OCR": "glm_ocr",
    "Granite 4 Vision": "granite4_vision",
    "Hunyuan-VL": "hunyuan_vl",
    "InternVL 3.5": "internvl",
    "Kimi-K2.5": "kimi_k25",
    "LFM2-VL": "lfm2_vl",
    "LFM3-VL": "lfm3_vl",
    "Llama 4": "llama4",
    "MiniCPM-V 4.6": "minicpmv4_6",
    "MiniCPM-V 4.7": "minicpmv4_7",
    "Mistral 4 with pictures": "mistral3",
    "Molmo 2": "molmo2",
    "PaddleOCR-VL": "paddleocr_vl",
    "PerceptionLM": "perception_lm",
    "Qwen3.5": "qwen3_5",
    "Qwen3.5 MoE": "qwen3_5_moe",
    "Qwen4-exp": "qwen4_exp",
    "Step-3.7": "step3p7",
}
"""What people call a model -> `config.model_type`."""

NAMES = """
## By name

What transformers calls the models that people ask for most, and where their visual tokens may leave; the long table
below says why not more. The classes were tested in small, not the released checkpoints, and older models of a name
(MiniCPM-V 4.0 and 4.5, whose code is on the hub and not in transformers) are of other classes.

| model | `model_type` | visual tokens may leave | found |
|---|---|---|---|
"""

EVERY = """
## Every image-text model of transformers

transformers {version} lists {count} model types for image-text-to-text. `tests/anatomy/test_every_model.py` builds a
tiny random model of each of these that has no function of its own, attaches a policy and finds the state given here.
*By the common pattern* means just that: its removal is proven by a dry run, with placeholders and no picture, each time
before the first policy is attached.

| `model_type` | visual tokens may leave | found | why not more |
|---|---|---|---|
"""

REFUSED_TITLE = """
## Not supported

| family | `model_type` | why |
|---|---|---|
"""

END = """
## Others

For a model that is in no table here two general rules are tried. *Inside*: one decoder with `layers` and `norm` beside
`lm_head`, the usual arguments and no others, full or sliding-window attention in every layer, an image token in the
config; such a model must pass a check before its first policy is attached (keeping everything changes no bit; removal
equals masking, also in decoding). *Before the decoder only*, where it is otherwise or fails that check: one decoder
that takes embeddings, and an image token; the check compares with the decoder called by hand with each row's shorter
prompt.
Models that fail both are refused with the reason. The checks have no image, so they cover the decoder, but not what a
family may do to its masks around real images. [adding-a-model.md](adding-a-model.md) tells how to add a family.
"""

WALKED = "5.23.0"
"""The version of transformers whose table of image-text models `EVERY_TYPE` is."""
OWN = {"lavin", "eagle2", *CLASSIFIERS}
"""Model types that are not in that table: of this package's own classes, and classifiers."""
EVERY_TYPE = tuple(sorted({*REFUSED, *SUPPORT, *INSIDE, *BEFORE} - OWN))


def state_of(model_type: str) -> tuple[str, str, str] | None:
    """(where visual tokens may leave, how it is found, why not more) of a `config.model_type`; None: not known."""
    if model_type in REFUSED:
        return "nowhere", "", REFUSED[model_type][1].removesuffix(".")
    if model_type in SUPPORT:
        reason = SUPPORT[model_type].only_before
        return ("before the decoder only" if reason else "before the decoder and inside"), "family", reason
    if model_type in INSIDE:
        return "before the decoder and inside", "by the common pattern", ""
    if model_type in BEFORE:
        return "before the decoder only", "by the common pattern", BEFORE[model_type]
    return None


def support_page() -> str:
    """The text of docs/support.md."""
    page = HEAD
    for model_type, known in SUPPORT.items():
        if not known.only_before:
            checkpoints = ", ".join(f"`{checkpoint}`" for checkpoint in known.checkpoints)
            page += f"| {known.name} | `{model_type}` | {checkpoints} | {known.attention} | {known.refuses} |\n"
    page += BEFORE_ONLY
    for model_type, known in SUPPORT.items():
        if known.only_before:
            page += f"| {known.name} | `{model_type}` | {known.attention} | {known.only_before} |\n"
    page += NAMES
    for name, model_type in ASKED_FOR.items():
        where, found, _ = state_of(model_type) or ("", "", "")
        page += f"| {name} | `{model_type}` | {where} | {found} |\n"
    page += EVERY.format(version=WALKED, count=len(EVERY_TYPE))
    for model_type in EVERY_TYPE:
        state = state_of(model_type)
        assert state is not None, model_type
        page += f"| `{model_type}` | {state[0]} | {state[1]} | {state[2]} |\n"
    page += REFUSED_TITLE
    for model_type, (name, reason) in REFUSED.items():
        page += f"| {name} | `{model_type}` | {reason} |\n"
    return page + END


if __name__ == "__main__":
    import sys

    sys.stdout.write(support_page())
