"""`lookaway serve` as a process of its own: it answers, streams, and ends gracefully; and its options."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from served import body

from lookaway.cli.serve import Options, named_policies, read_keys
from lookaway.core.errors import DataError

URL = "/v1/chat/completions"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def server(model_folder, tmp_path):
    port = free_port()
    (tmp_path / "exit.yaml").write_text("policy: exit-at\nconfig: {layer: 2}\n")
    command = [sys.executable, "-m", "lookaway", "serve", "--model", str(model_folder), "--port", str(port),
               "--policy", f"exit={tmp_path / 'exit.yaml'}", "--max-answer-tokens", "400"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            try:
                if get(port, "/health")[0] == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    reply = connection.getresponse()
    return reply.status, reply.read()


def post(port, content):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", URL, json.dumps(content), {"Content-Type": "application/json"})
    return connection.getresponse()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_serves_and_ends_gracefully(server):
    process, port = server
    reply = post(port, body(max_tokens=4))
    assert reply.status == 200
    assert json.loads(reply.read())["usage"]["lookaway"]["exit_layer"] == 2
    assert get(port, "/")[0] == 200
    assert b"lookaway_requests_total" in get(port, "/metrics")[1]
    assert post(port, {"messages": []}).status == 400
    # A client that goes away in the middle of its answer frees its place.
    gone = post(port, body("ab", stream=True, max_tokens=400, temperature=2.0, seed=1))
    gone.read(20)
    gone.close()
    wait_for(lambda: json.loads(get(port, "/health")[1])["running"] == 0)
    # An answer that is under way when the signal comes is still given in full.
    found = {}
    stream = post(port, body(stream=True, max_tokens=8))
    first = stream.readline()
    reader = threading.Thread(target=lambda: found.update(rest=stream.read()))
    reader.start()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    reader.join(60)
    assert process.returncode == 0, errors
    assert first.startswith(b"data: ")
    assert found["rest"].rstrip().endswith(b"data: [DONE]")
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "stopped."


def test_a_port_in_use_is_one_line(model_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "lookaway", "serve", "--model", str(model_folder), "--port",
                   str(taken.getsockname()[1])]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Cannot serve at 127.0.0.1:" in done.stderr


def test_policies_have_names(tmp_path):
    for name, layer in (("early", 1), ("late", 3)):
        (tmp_path / f"{name}.yaml").write_text(f"policy: exit-at\nconfig: {{layer: {layer}}}\n")
    early, late = str(tmp_path / "early.yaml"), str(tmp_path / "late.yaml")
    found = named_policies(Options(model="x", policy=(f"a={early}", late)))
    assert {name: policy.layer for name, policy in found.items()} == {"a": 1, "default": 3}
    assert named_policies(Options(model="x")) == {}
    with pytest.raises(DataError, match="Two policies are called 'default'"):
        named_policies(Options(model="x", policy=(early, late)))


def test_keys_come_from_a_file_or_the_environment(tmp_path):
    assert read_keys(None, "") == []
    assert read_keys(None, " a, b,") == ["a", "b"]
    (tmp_path / "keys").write_text("one\n\n two \n")
    assert read_keys(tmp_path / "keys", "a") == ["a", "one", "two"]
    (tmp_path / "none").write_text("\n")
    with pytest.raises(DataError, match="holds no API key"):
        read_keys(tmp_path / "none", "a")
    with pytest.raises(DataError, match="Cannot read"):
        read_keys(tmp_path / "missing", "")
