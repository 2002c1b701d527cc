"""One short function a family, registered by `config.model_type` (docs/adding-a-model.md)."""

from . import before_only, by_pattern, gemma, lavin, llava, qwen, refused, tiled  # noqa: F401  (importing registers them)
from .parts import fingerprint, usual
from .shapes import decoder_shape

__all__ = ["decoder_shape", "fingerprint", "usual"]
