"""Pictures of a request: from a data URL or an address to a PIL image, with every limit checked before the work."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Any

from .errors import ApiError
from .fetching import fetch
from .limits import Limits

__all__ = ["read_picture"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are read; all others stay closed, whatever Pillow could read."""
EXTREME = 200
"""Largest ratio of a picture's sides."""


def read_picture(url: str, limits: Limits, param: str, deadline: float) -> Any:
    """A PIL image in RGB, upright.

    Args:
        url: 'data:image/...;base64,...', or http(s) where the limits allow it.
        param: where it stands in the body, for error messages.
        deadline: `time.monotonic()` after which fetching gives up.

    Raises:
        ApiError: the picture is no picture, or beyond a limit.
    """
    scheme = url[:16].partition(":")[0].lower()
    if scheme == "data":
        data = _from_data_url(url, limits, param)
    elif scheme in ("http", "https"):
        if not limits.allow_url:
            raise ApiError(400, "This server fetches no addresses (it was started without --allow-url): send the "
                           "picture as a data URL, 'data:image/png;base64,...'.", param, "url_not_allowed")  # fmt: skip
        data = fetch(url, limits, param, deadline)
    else:
        raise ApiError(400, "A picture must be a data URL, 'data:image/png;base64,...'.", param, "invalid_image_url")
    return _decoded(data, limits, param)


def _from_data_url(url: str, limits: Limits, param: str) -> bytes:
    head, comma, encoded = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ApiError(400, "The data URL must be 'data:image/...;base64,' and base64 behind it.", param,
                       "invalid_image_url")  # fmt: skip
    if len(encoded) * 3 // 4 > limits.max_picture_bytes + 3:
        raise _too_many_bytes(limits, param)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "The picture's base64 cannot be decoded.", param, "invalid_image") from None


def _too_many_bytes(limits: Limits, param: str) -> ApiError:
    return ApiError(413, f"The picture has more than {limits.max_picture_bytes:,} bytes. Send a smaller one.", param,
                    "picture_too_large")  # fmt: skip


def _decoded(data: bytes, limits: Limits, param: str) -> Any:
    from PIL import Image, ImageOps

    broken = ApiError(400, f"The picture cannot be read; formats are {', '.join(FORMATS)}.", param, "invalid_image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, larger, limit of pixels
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits, param) from None
    except Exception:  # damaged headers raise whatever a format's reader trips over
        raise broken from None
    width, height = opened.size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(limits, param)
    if min(width, height) < 1 or max(width, height) > EXTREME * min(width, height):
        raise ApiError(400, f"The picture is {width} x {height}: one side is more than {EXTREME} times the other.",
                       param, "extreme_picture")  # fmt: skip
    if getattr(opened, "is_animated", False):
        raise ApiError(400, "The picture is an animation. Send one frame of it.", param, "animated_picture")
    try:
        return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:
        raise broken from None


def _too_many_pixels(limits: Limits, param: str) -> ApiError:
    return ApiError(413, f"The picture has more than {limits.max_pixels:,} pixels. Scale it down first.", param,
                    "picture_too_large")  # fmt: skip
