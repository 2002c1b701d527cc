"""`lookaway serve --ray` with two replicas, in an environment that has Ray (`make test-ray`)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import body

pytestmark = pytest.mark.ray
STARTS_IN = 600  # seconds
REQUESTS = 24
PATIENT = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""A machine that is busy with other tests starts a process in minutes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    path = tmp_path_factory.mktemp("model")
    tiny("llava").model.save_pretrained(path)
    tiny_processor().save_pretrained(path)
    (path / "exit.yaml").write_text("policy: exit-at\nconfig: {layer: 2}\n")
    return path


@pytest.fixture(scope="module")
def server(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lookaway", "serve", "--ray", "--replicas", "2", "--model", str(folder),
               "--policy", f"exit={folder / 'exit.yaml'}", "--port", str(port)]  # fmt: skip
    packages = [str(Path(__file__).parents[3] / "src"), *sys.path[1:]]  # Ray's workers start without pytest's path
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(packages), **PATIENT}
    log = (folder / "log").open("w+")
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_IN
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Ray Serve did not start:\n{(folder / 'log').read_text()[-4000:]}")
            time.sleep(0.5)
        yield url, process
    finally:
        process.kill()
        process.wait()


def healthy(url):
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def ask(url, policy, tokens=6):
    """(status, answer, what was saved)."""
    content = json.dumps(body(max_tokens=tokens, lookaway={"policy": policy})).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            document = json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), None
    return 200, document["choices"][0]["message"]["content"], document["usage"]["lookaway"]


@pytest.fixture(scope="module")
def expected(folder):
    """Policy -> the answer of the same application in this process."""
    from starlette.testclient import TestClient

    from lookaway.cli.serve import Options, application

    app = application(Options(model=str(folder), policy=(f"exit={folder / 'exit.yaml'}",)), ())
    found = {}
    with TestClient(app) as client:
        for policy in ("exit", "off"):
            reply = client.post("/v1/chat/completions", json=body(max_tokens=6, lookaway={"policy": policy}))
            found[policy] = reply.json()["choices"][0]["message"]["content"]
    return found


def replicas():
    """Process ids of this machine's replicas."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ServeReplica:lookaway" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            pass
    return found


def test_the_same_answers_with_a_policy_each(server, expected):
    url, _ = server
    with ThreadPoolExecutor(8) as pool:
        names = [("exit", "off")[n % 2] for n in range(REQUESTS)]
        for name, (status, answer, saved) in zip(names, pool.map(lambda name: ask(url, name), names), strict=True):
            assert (status, answer, saved["policy"]) == (200, expected[name], name)
            assert (saved["prefill_flops_share"] < 1) == (name == "exit")
    assert ask(url, "none of these")[0] == 400
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{url}/metrics", timeout=30)
    assert error.value.code == 404


def test_a_replica_that_is_killed_under_load_is_started_again(server, expected):
    """What it was answering fails with a status of 500 or more; nothing is answered wrongly."""
    url, _ = server
    before = replicas()
    assert len(before) == 2
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, url, "exit") for _ in range(REQUESTS)]
        os.kill(before[0], signal.SIGKILL)
        for answer in answers:
            status, text, _ = answer.result()
            assert (status == 200 and text == expected["exit"]) or status >= 500
    deadline = time.monotonic() + 300
    while len(set(replicas()) - {before[0]}) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(set(replicas()) - {before[0]}) == 2
    while time.monotonic() < deadline and not healthy(url):
        time.sleep(0.5)
    assert ask(url, "exit")[:2] == (200, expected["exit"])


def test_it_ends_on_sigterm(server, folder):
    _, process = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 0, (folder / "log").read_text()[-3000:]
    assert not replicas()
