"""A tiny LLaVA behind the server, in this process, and bodies to send to it."""

from __future__ import annotations

import base64
import io
import json

from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.serving.openai.app import make_app
from lookaway.serving.openai.limits import Limits

URL = "/v1/chat/completions"
SMALL = {"max_pictures": 3, "max_pixels": 10_000, "max_picture_bytes": 100_000, "max_body_bytes": 300_000,
         "max_prompt_tokens": 200, "max_answer_tokens": 50, "default_answer_tokens": 8, "max_batch": 4,
         "max_waiting": 6, "timeout_seconds": 60.0}  # fmt: skip
POLICIES = {"exit": la.ExitAt(2), "fastv": la.FastV(layer=2, ratio=0.5)}


def tiny_app(seed=21, policies=None, **more):
    """(application, model): the model is of this application alone."""
    made = tiny("llava", seed=seed)
    limits = Limits(**{**SMALL, **more.pop("limits", {})})
    app = make_app(
        made.model, tiny_processor(), POLICIES if policies is None else policies, "tiny", limits=limits, **more
    )
    return app, made.model


def picture(colour="red", size=(16, 16), kind="PNG"):
    """A data URL."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return data_url(buffer.getvalue(), kind.lower())


def data_url(data, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def body(question="what is it?", pictures=None, **more):
    """A chat request with one picture."""
    urls = [picture()] if pictures is None else pictures
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}], **more}


def events(text):
    """The data of server-sent events, the last one a word where the stream is complete."""
    lines = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
