"""`vllm serve` as users start it: the entry point, processes of its own, the OpenAI API with a policy a request."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from vllm_checkpoints import LAYERS
from vllm_engine import LOGPROB_TOLERANCE, environment
from vllm_judge import NEW_TOKENS

pytestmark = pytest.mark.vllm
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
STARTS_IN = 400  # seconds


@pytest.fixture(scope="module")
def server(judges, tmp_path_factory):
    judge = judges("llava")
    folder = tmp_path_factory.mktemp("server")
    (folder / "template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"lookaway": {"policies": {name: judge.saved[name] for name in ("gates", "exit-3", "second-look")}}}
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(judge.folder), "--host", "127.0.0.1",
        "--port", str(port), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager",
        "--no-enable-chunked-prefill", "--max-num-batched-tokens", "1024",
        "--max-model-len", "512", "--block-size", "32", "--generation-config", "vllm",
        "--chat-template", str(folder / "template.jinja"), "--additional-config", json.dumps(given),
    ]  # fmt: skip
    log = (folder / "log").open("w+")
    (folder / "counters").mkdir()
    environ = environment(
        VLLM_ENABLE_V1_MULTIPROCESSING="1", VLLM_LOGGING_LEVEL="INFO", PROMETHEUS_MULTIPROC_DIR=str(folder / "counters")
    )
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + STARTS_IN
        while not answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vLLM did not start:\n{(folder / 'log').read_text()[-4000:]}")
            time.sleep(0.5)
        yield judge, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def chat(judge, url, index, read=json.load, **more):
    text, images = judge.prompts[index]
    content = []
    for n, words in enumerate(text.split("<image>")):
        if n:
            png = io.BytesIO()
            images[n - 1].save(png, "PNG")
            data = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
            content.append({"type": "image_url", "image_url": {"url": data}})
        content.append({"type": "text", "text": words})
    body = {
        "model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": NEW_TOKENS, "temperature": 0,
        "ignore_eos": True, "logprobs": True, "return_token_ids": True, "add_special_tokens": False, **more,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return read(reply)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_policy_for_each_request(server, index):
    judge, url = server
    for more, name in [
        ({}, "gates"),  # the default
        ({"lookaway": {"policy": "exit-3"}}, "exit-3"),
        ({"lookaway": {"policy": "off"}}, "off"),
        ({"lookaway": "gates"}, "gates"),
        ({"vllm_xargs": {"lookaway": "second-look"}}, "second-look"),
    ]:
        reply = chat(judge, url, index, **more)
        choice, usage = reply["choices"][0], reply["usage"]
        tokens, logprobs, _, saved = judge.answer(index, name)
        assert choice["token_ids"] == tokens, name
        found = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert found == pytest.approx(logprobs, abs=LOGPROB_TOLERANCE)
        assert "kv_transfer_params" not in reply or reply["kv_transfer_params"] is None
        if judge.prompts[index][1]:
            assert usage["lookaway"].pop("policy") == name
            assert ("looked_again" in usage["lookaway"]) == (name == "second-look")
            usage["lookaway"].pop("looked_again", None)
            assert usage["lookaway"] == pytest.approx(saved)
        else:
            assert "lookaway" not in usage


def test_a_stream_says_what_was_saved_with_its_usage(server):
    judge, url = server
    asked = {"stream": True, "stream_options": {"include_usage": True}, "lookaway": {"policy": "exit-3"}}
    for more, expected in ((asked, True), ({**asked, "stream_options": None}, False)):
        events = chat(judge, url, 0, read=lambda reply: reply.read().decode().split("\n\n"), **more)
        documents = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
        assert [
            token for event in documents for choice in event["choices"] for token in choice.get("token_ids") or []
        ] == (judge.answer(0, "exit-3")[0])
        reports = [event["usage"]["lookaway"] for event in documents if (event.get("usage") or {}).get("lookaway")]
        assert len(reports) == expected
        for report in reports:
            assert report.pop("policy") == "exit-3"
            assert report == pytest.approx(judge.answer(0, "exit-3")[3])


def test_an_unknown_policy_is_a_bad_request(server):
    judge, url = server
    for more, words in [
        ({"vllm_xargs": {"lookaway": "exit-4"}}, "no policy 'exit-4'"),
        ({"lookaway": {"policy": "exit-4"}}, "no policy 'exit-4'"),
        ({"lookaway": {"polcy": "exit-3"}}, "lookaway takes"),
        ({"lookaway": 3}, "lookaway takes"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as error:
            chat(judge, url, 0, **more)
        assert error.value.code == 400
        assert words in error.value.read().decode()
    assert answers(f"{url}/health")


def test_what_was_saved_is_counted(server):
    """The requests of the tests above, on vLLM's own /metrics."""
    judge, url = server
    chat(judge, url, 0, vllm_xargs={"lookaway": "exit-3"})
    page = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
    found = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("lookaway_"))
    prompts = float(found['lookaway_prompts_total{exit_layer="3",policy="exit-3"}'])
    assert prompts >= 1
    assert float(found['lookaway_visual_tokens_total{policy="exit-3"}']) >= 64 * LAYERS
    every, dropped = (
        float(found[f'lookaway_visual_tokens{part}_total{{policy="exit-3"}}']) for part in ("", "_dropped")
    )
    assert dropped == every / 2  # three of six layers
    assert float(found['lookaway_prefill_flops_saved_total{policy="exit-3"}']) > 0
