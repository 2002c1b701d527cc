"""Everything that a client can do wrong is answered with a status of the 400s, a JSON error, and no traceback."""

import base64
import io
import json
import logging
import struct
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from served import URL, body, data_url, picture


@pytest.fixture(autouse=True)
def no_tracebacks(caplog):
    with caplog.at_level(logging.WARNING):
        yield
    assert [record for record in caplog.records if record.exc_info] == []


def refused(reply, status, code=None):
    assert reply.status_code == status, reply.text[:500]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 2000
    if code is not None:
        assert error["code"] == code, error
    return error


def bomb(width, height):
    """A PNG that says it is huge, in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def animation():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return data_url(buffer.getvalue(), "gif")


def tiff():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    return data_url(buffer.getvalue(), "tiff")


WHOLE = base64.b64decode(picture().partition(",")[2])
PICTURES = {
    "no address": ("picture.png", 400, "invalid_image_url"),
    "a file": ("file:///etc/passwd", 400, "invalid_image_url"),
    "an address": ("http://example.com/a.png", 400, "url_not_allowed"),
    "another address": ("HTTPS://example.com/a.png", 400, "url_not_allowed"),
    "no base64": ("data:image/png,abc", 400, "invalid_image_url"),
    "no comma": ("data:image/png;base64", 400, "invalid_image_url"),
    "broken base64": ("data:image/png;base64,a b!", 400, "invalid_image"),
    "empty": ("data:image/png;base64,", 400, "invalid_image"),
    "text": (data_url(b"hello"), 400, "invalid_image"),
    "cut off": (data_url(WHOLE[:50]), 400, "invalid_image"),
    "another format": (tiff(), 400, "invalid_image"),
    "an animation": (animation(), 400, "animated_picture"),
    "a bomb": (data_url(bomb(50_000, 50_000)), 413, "picture_too_large"),
    "a larger bomb": (data_url(bomb(2**31 - 1, 2**31 - 1)), 413, "picture_too_large"),
    "no pixels": (data_url(bomb(0, 5)), 400, "invalid_image"),
    "pixels that are missing": (data_url(bomb(90, 90)), 400, "invalid_image"),
    "too many pixels": (picture(size=(200, 100)), 413, "picture_too_large"),
    "a line": (picture(size=(401, 2)), 400, "extreme_picture"),
    "too many bytes": (data_url(b"\0" * 110_000), 413, "picture_too_large"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(client, name):
    url, status, code = PICTURES[name]
    error = refused(client.post(URL, json=body(pictures=[url])), status, code)
    assert error["param"] == "picture 1"


BODIES = {
    "no message": ({}, "missing"),
    "empty messages": ({"messages": []}, "too_short"),
    "messages of another kind": ({"messages": "hello"}, None),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, None),
    "an unknown part": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None),
    "a part with more": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]}, None),
    "null text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, None),
    "the assistant's last": ({"messages": [{"role": "assistant", "content": "x"}]}, "no_question"),
    "an unknown field": (body(colour="red"), "unknown_field"),
    "several answers": (body(n=2), "unsupported"),
    "tools": (body(tools=[{"type": "function"}]), "unsupported"),
    "a JSON answer": (body(response_format={"type": "json_object"}), "unsupported"),
    "log-probabilities": (body(logprobs=True), "unsupported"),
    "a penalty": (body(presence_penalty=0.5), "unsupported"),
    "no tokens": (body(max_tokens=0), None),
    "too many tokens": (body(max_tokens=51), "max_tokens_too_large"),
    "half a token": (body(max_tokens=1.5), None),
    "tokens in words": (body(max_tokens="8"), None),
    "true tokens": (body(max_tokens=True), None),
    "too warm": (body(temperature=3), None),
    "below zero": (body(temperature=-1), None),
    "no probability": (body(top_p=0), None),
    "too many stops": (body(stop=["a", "b", "c", "d", "e"]), None),
    "an unknown policy": (body(lookaway={"policy": "fast"}), "unknown_policy"),
    "an option of no policy": (body(lookaway={"layer": 2}), None),
    "a policy by number": (body(lookaway={"policy": 3}), None),
    "too many pictures": (body(pictures=[picture()] * 4), "too_many_pictures"),
    "a picture of the assistant": (
        {"messages": [{"role": "assistant", "content": body()["messages"][0]["content"]}]}, "misplaced_picture"),
    "a placeholder": (body("what is <image>?"), "placeholder_in_text"),
    "a long text": (body("x" * 10_000), "context_length_exceeded"),
    "many tokens": (body("x" * 300), "context_length_exceeded"),
    "a huge seed": (body(seed=2**70), None),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies(client, name):
    content, code = BODIES[name]
    refused(client.post(URL, json=content), 400, code)


RAW = {
    "nothing": b"", "no JSON": b"{", "a number": b"3", "null": b"null", "a list": b"[]", "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000, "deep objects": b'{"messages":' * 20_000, "NaN": b'{"messages": NaN}',
    "a huge number": b'{"messages": 1' + b"0" * 100_000 + b"}", "half a surrogate": b'{"messages": "\\ud800"}',
    "infinity": json.dumps(body()).encode()[:-1] + b', "temperature": Infinity}',
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_bytes(client, name):
    refused(client.post(URL, content=RAW[name], headers={"Content-Type": "application/json"}), 400)


def test_a_surrogate_in_a_question(client):
    raw = json.dumps(body("SIGN")).replace("SIGN", "\\ud800").encode()
    refused(client.post(URL, content=raw, headers={"Content-Type": "application/json"}), 400)


def test_ten_thousand_pictures(client):
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}] * 10_000
    began = time.monotonic()
    reply = client.post(URL, json={"messages": [{"role": "user", "content": parts}]})
    assert reply.status_code in (400, 413)
    assert time.monotonic() - began < 30


def test_a_body_that_is_too_large(client):
    refused(client.post(URL, json=body("x" * 400_000)), 413, "body_too_large")

    def pieces():
        for _ in range(10):
            yield b" " * 50_000

    sent = client.post(URL, content=pieces(), headers={"Content-Type": "application/json"})  # its length is not said
    refused(sent, 413, "body_too_large")


def test_another_kind_of_content(client):
    refused(client.post(URL, content=b"messages=x", headers={"Content-Type": "text/plain"}), 415, "no_json")


def test_another_model(client):
    refused(client.post(URL, json=body(model="gpt")), 404, "model_not_found")


def test_no_such_page(client):
    refused(client.get("/v1/nothing"), 404)
    refused(client.get(URL), 405)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    ["messages", "model", "stream", "max_tokens", "stop", "lookaway", "seed", "temperature", "tools"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(FIELDS, JSON, max_size=4), st.booleans())
def test_fuzzed_fields(client, fields, whole):
    content = json.dumps({**body(), **fields} if whole else fields)  # infinities too, which are no JSON
    reply = client.post(URL, content=content, headers={"Content-Type": "application/json"})
    if reply.status_code != 200:
        assert 400 <= reply.status_code < 500, reply.text
        assert reply.json()["error"]["message"]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
def test_fuzzed_pictures(client, place, noise):
    damaged = WHOLE[:place] + noise + WHOLE[place + len(noise) :]
    reply = client.post(URL, json=body(pictures=[data_url(damaged)], max_tokens=1))
    assert reply.status_code == 200 or 400 <= reply.status_code < 500, reply.text


def test_the_server_is_well_after_all_that(client):
    assert client.get("/health").json() == {"status": "ok", "model": "tiny", "waiting": 0, "running": 0}
    assert client.post(URL, json=body()).status_code == 200
