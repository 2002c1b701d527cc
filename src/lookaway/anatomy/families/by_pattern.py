"""What is known of architectures that have no function of their own: data that a test proves on tiny random models.

`tests/anatomy/test_every_model.py` walks transformers' table of image-text-to-text models and holds each row of it
against these lists; docs/support.md prints them. A model of another kind is tried by the same rules when a policy is
attached.
"""

from __future__ import annotations

from ..registry import refused
from .before_only import CONVOLUTION, RUNNING_STATE

__all__ = ["BEFORE", "INSIDE", "ON_GRIDS"]

INSIDE = (
    "aria", "cohere2_vision", "cosmos3_edge", "deepseek_ocr2", "deepseek_vl", "deepseek_vl_hybrid", "emu3", "exaone4_5",
    "glm46v", "glm4v_moe", "glm_ocr", "glmga", "got_ocr2", "hunyuan_vl", "hyperclovax_vision_v2", "idefics2", "janus",
    "kimi_k25", "lighton_ocr", "molmo2", "paddleocr_vl", "perception_lm", "pp_chart2table", "qianfan_ocr",
    "qwen2_5_omni_thinker", "shieldgemma2", "step3p7", "video_llama_3",
)  # fmt: skip
"""`config.model_type` of models of the common pattern: visual tokens may leave before the decoder and inside it."""

ON_GRIDS = frozenset({"cosmos3_edge", "glm46v", "glm4v_moe", "glm_ocr", "paddleocr_vl"})
"""Of these the ones that count time, row and column as Qwen-VL does (`Anatomy.grid_rotary`)."""

DEEPSTACK = "its decoder adds features of the vision tower to the visual tokens between its layers"
SHARED_KEYS = "later layers of its decoder may read the keys and values of earlier ones"
CHOSEN_KEYS = "layers of its decoder choose by an index which places they read"
LOGITS = "it caps and scales its logits in a way of its own"

BEFORE = {
    "cohere_compass": DEEPSTACK,
    "cosmos3_omni": DEEPSTACK,
    "ernie4_5_vl_moe": "its layers choose experts by the kind of each token, in an argument of their own",
    "fuyu": "its decoder is of another build than the common pattern",
    "gemma3n": f"its layers take inputs of their own for each token, and {SHARED_KEYS}",
    "gemma4": f"its layers take inputs of their own for each token, and {SHARED_KEYS}",
    "gemma4_unified": SHARED_KEYS,
    "glm5_next": RUNNING_STATE,
    "granite4_vision": DEEPSTACK,
    "granite_docling": DEEPSTACK,
    "inkling2": CONVOLUTION,
    "inkling_mm_model": CONVOLUTION,
    "lfm3_vl": CONVOLUTION,
    "llama4": "layers of its decoder see chunks of the prompt by place, and scale queries by place",
    "minicpm_ocr": RUNNING_STATE,
    "minicpmv4_6": RUNNING_STATE,
    "minicpmv4_7": RUNNING_STATE,
    "minimax_m3_vl": "layers of its decoder choose blocks of neighbouring places to read",
    "mistral_large4": f"{CHOSEN_KEYS}, and {SHARED_KEYS}",
    "muse_glimmer": LOGITS,
    "muse_spark": LOGITS,
    "nemotron_h_omni": RUNNING_STATE,
    "qwen3_omni_moe_thinker": DEEPSTACK,
    "qwen4_exp": RUNNING_STATE,
    "unlimited_ocr": "layers of its decoder have windows that keep a part of the prompt",
}
"""`config.model_type` -> why visual tokens may leave before the decoder only."""

_ENCODER = "its picture is read by an encoder, and the decoder looks at it by cross-attention: no token could leave."
_QUERIES = (
    "its picture becomes a few dozen query tokens already, and its forward takes no prompt without a picture, so "
    "the dry run that proves removal cannot be carried out."
)
_PLACES = "its config names no placeholder: where the picture stands is told by an argument of its own."

for _model_type, _name, _why in (
    ("blip", "BLIP", _ENCODER),
    ("blip-2", "BLIP-2", _QUERIES),
    ("chameleon", "Chameleon", "its picture becomes ids of its vocabulary, and one module makes embeddings and runs "
     "the layers, so there is no place in front of the decoder."),
    ("diffusion_gemma", "DiffusionGemma", "it writes its answer by diffusion over a canvas, not token by token behind "
     "a prompt."),
    ("dots3_note", "dots.note", f"{CHOSEN_KEYS}, and its config cannot be made small enough for the test that would "
     "prove removal before the decoder."),
    ("evolla", "Evolla", "it reads proteins, not pictures."),
    ("florence2", "Florence-2", _ENCODER),
    ("git", "GIT", _PLACES),
    ("idefics", "IDEFICS", _ENCODER),
    ("instructblip", "InstructBLIP", _QUERIES),
    ("instructblipvideo", "InstructBLIP for videos", _QUERIES),
    ("kosmos-2", "KOSMOS-2", _PLACES),
    ("kosmos-2.5", "KOSMOS-2.5", _PLACES),
    (
        "mistral4", "Mistral 4",
        "the class that transformers has for it is a text-only model. With pictures its decoder stands in Mistral 3's "
        "class (mistral3), where it is supported.",
    ),
    ("pi0", "PI0", "it answers with a robot's actions, not with text."),
    ("pix2struct", "Pix2Struct", _ENCODER),
    ("pp_formulanet", "PP-FormulaNet", _ENCODER),
    ("t5gemma2", "T5Gemma 2", _ENCODER),
    ("udop", "UDOP", _ENCODER),
    ("vision-encoder-decoder", "Vision encoder-decoder", _ENCODER),
):  # fmt: skip
    refused(_model_type, _name, _why)
