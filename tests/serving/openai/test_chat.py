"""Chat completions in this process: answers, streams, choices of policies, errors."""

import base64
import io
import threading
import time

import pytest
from PIL import Image
from served import POLICIES, URL, body, events, picture, tiny_app
from starlette.testclient import TestClient

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.models.encoding import encode, open_image


@pytest.fixture(scope="module")
def expected():
    """(policy, question) -> what the model's own generate answers."""
    model, processor = tiny("llava", seed=21).model, tiny_processor()

    def answer(policy, question="what is it?", colour="red", tokens=8):
        data = base64.b64decode(picture(colour).partition(",")[2])
        image = open_image(Image.open(io.BytesIO(data)))
        content = [{"type": "image"}, {"type": "text", "text": question}]
        inputs = encode(processor, [la.Sample("x", [{"role": "user", "content": content}], (image,))]).inputs

        def run():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
            return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        if policy == "off":
            return run()
        with la.attach(model, POLICIES[policy]):
            return run()

    return answer


@pytest.mark.parametrize("policy", ["exit", "fastv", "off"])
def test_an_answer_is_the_models_own(client, expected, policy):
    reply = client.post(URL, json=body(lookaway={"policy": policy}))
    assert reply.status_code == 200, reply.text
    got = reply.json()
    assert got["object"] == "chat.completion"
    assert got["choices"][0]["message"] == {"role": "assistant", "content": expected(policy), "refusal": None}
    saved = got["usage"]["lookaway"]
    assert saved["policy"] == policy
    assert saved["visual_tokens"] == 16
    assert saved["exit_layer"] == (2 if policy == "exit" else None)
    assert (saved["prefill_flops_share"] < 1) == (policy != "off")
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
    assert "kept" not in saved


def test_the_first_policy_is_the_default(client):
    assert client.post(URL, json=body()).json()["usage"]["lookaway"]["policy"] == "exit"


def test_a_stream_says_the_same(client, expected):
    request = body(stream=True, stream_options={"include_usage": True})
    with client.stream("POST", URL, json=request) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        *chunks, last, done = events("".join(reply.iter_text()))
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected("exit")
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] in ("stop", "length")
    assert last["choices"] == []
    assert last["usage"]["lookaway"]["exit_layer"] == 2
    assert len({chunk["id"] for chunk in (*chunks, last)}) == 1


def test_many_at_once_are_answered_as_one_by_one(client, expected):
    asked = [(policy, f"what {n}?") for n in range(3) for policy in ("exit", "fastv", "off")]
    found = {}

    def ask(policy, question):
        for _ in range(200):
            reply = client.post(URL, json=body(question, lookaway={"policy": policy}))
            if reply.status_code != 429:
                break
            time.sleep(0.05)
        found[policy, question] = reply.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {(policy, question): expected(policy, question) for policy, question in asked}


def test_details_tell_which_visual_tokens_each_layer_kept(client):
    def kept(policy):
        reply = client.post(URL, json=body(lookaway={"policy": policy, "details": True}))
        saved = reply.json()["usage"]["lookaway"]
        assert [length for length, _ in saved["pictures"]] == [16]
        assert saved["aligned"] is True
        seen = Image.open(io.BytesIO(base64.b64decode(saved["picture"])))
        assert seen.convert("RGB").getpixel((5, 5)) == (255, 0, 0)
        return saved["kept"]

    assert kept("off") == [{"layer": 0, "kept": None}]
    assert kept("exit") == [{"layer": 0, "kept": None}, {"layer": 2, "kept": []}]
    first, second = kept("fastv")
    assert first == {"layer": 0, "kept": None}
    assert second["layer"] == 2
    assert len(second["kept"]) == 8
    assert second["kept"] == sorted(set(second["kept"]))
    assert set(second["kept"]) <= set(range(16))


def test_text_alone_is_answered(client):
    reply = client.post(URL, json={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}).json()
    assert reply["usage"]["completion_tokens"] <= 3
    assert reply["usage"]["lookaway"]["visual_tokens"] == 0


def test_a_conversation_and_a_system_message(client):
    turns = [{"role": "system", "content": "be short"}, *body("first?")["messages"],
             {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and now?"}]  # fmt: skip
    assert client.post(URL, json={"messages": turns}).status_code == 200


def test_fields_of_the_openai_api_that_change_nothing(client):
    request = body(model="tiny", user="me", metadata={}, n=1, temperature=0, top_p=1.0, seed=3, presence_penalty=0.0,
                   tools=[], response_format={"type": "text"}, logprobs=None, max_completion_tokens=2)  # fmt: skip
    assert client.post(URL, json=request).json()["usage"]["completion_tokens"] <= 2


def test_sampling_with_a_seed(client):
    def answer(**more):
        return client.post(URL, json=body(**more)).json()["choices"][0]["message"]["content"]

    assert answer(temperature=2.0, seed=7) == answer(temperature=2.0, seed=7)
    assert len({answer(temperature=2.0, seed=n) for n in range(4)}) > 1


def test_models_health_and_metrics(client):
    client.post(URL, json=body())
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny"
    assert model["lookaway"] == {"policies": ["exit", "fastv", "off"], "default": "exit", "num_layers": 4}
    assert client.get("/health").json() == {"status": "ok", "model": "tiny", "waiting": 0, "running": 0}
    text = client.get("/metrics").text
    for line in ('lookaway_prompts_total{exit_layer="2",policy="exit"}', 'lookaway_requests_total{status="200"}',
                 'lookaway_visual_tokens_dropped_total{policy="exit"}', "lookaway_waiting 0.0",
                 'lookaway_first_token_seconds_count{policy="exit"}'):  # fmt: skip
        assert line in text
    saved = next(line for line in text.splitlines() if line.startswith("lookaway_prefill_flops_saved_total"))
    assert float(saved.split()[-1]) > 0


def test_keys_are_asked_for():
    app, _ = tiny_app(keys=["secret", "other"])
    with TestClient(app) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"},
                        {"Authorization": "secret"}, {"Authorization": "Bearer s\u00e9cret".encode()}):  # fmt: skip
            reply = client.post(URL, json=body(), headers=headers)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.post(URL, json=body(), headers={"Authorization": "Bearer other"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_full_queue_says_when_to_come_back():
    app, _ = tiny_app(limits={"max_waiting": 1})
    with TestClient(app) as client:
        app.state.worker.reserve()
        reply = client.post(URL, json=body())
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["type"] == "rate_limit_error"
        app.state.worker.release()
        assert client.post(URL, json=body()).status_code == 200


def test_a_deadline_in_the_queue_is_an_error_and_in_an_answer_the_last_event():
    app, _ = tiny_app(limits={"timeout_seconds": 1e-9})
    with TestClient(app) as client:
        reply = client.post(URL, json=body())
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline")
    app, model = tiny_app(limits={"timeout_seconds": 1.5, "max_answer_tokens": 480})
    endless(app, model)
    with TestClient(app) as client, client.stream("POST", URL, json=body(stream=True, max_tokens=400)) as reply:
        assert reply.status_code == 200
        *pieces, last = events("".join(reply.iter_text()))
    assert len(pieces) > 1
    assert last["error"]["code"] == "deadline"


def endless(app, model):
    """The tiny model never ends an answer by itself, and takes its time for each token."""
    app.state.worker._ends = frozenset()
    model.model.language_model.register_forward_hook(lambda *args: time.sleep(0.05))


def test_stopping_refuses_and_says_so():
    app, _ = tiny_app()
    with TestClient(app) as client:
        app.state.worker.stop(timeout=30)
        assert client.get("/health").status_code == 503
        reply = client.post(URL, json=body())
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "stopping")
        assert "retry-after" in reply.headers
