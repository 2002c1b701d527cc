"""One short function a family, registered by `config.model_type` (docs/adding-a-model.md)."""

from . import gemma, lavin, llava, qwen, refused, tiled  # noqa: F401  (importing registers them)
from .parts import decoder_shape, fingerprint, usual

__all__ = ["decoder_shape", "fingerprint", "usual"]
