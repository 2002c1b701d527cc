"""Addresses in requests: what is fetched, and everything that must not be reached through the server."""

import http.server
import socket
import threading
import time

import pytest
from served import URL, body, tiny_app
from starlette.testclient import TestClient

from lookaway.serving.openai import fetching
from lookaway.serving.openai.errors import ApiError
from lookaway.serving.openai.limits import Limits

LIMITS = Limits(allow_url=True, max_picture_bytes=1000, max_redirects=2)


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1",
])  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not fetching.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses(address):
    assert fetching.is_public(address)


def refused(url, why):
    with pytest.raises(ApiError, match=why) as found:
        fetching.fetch(url, LIMITS, "picture 1", time.monotonic() + 10)
    assert found.value.status == 400


@pytest.mark.parametrize("url", [
    "http://127.0.0.1/a.png", "http://localhost/a.png", "http://[::1]/a.png", "http://2130706433/a.png",
    "http://0x7f.1/a.png", "http://127.1/", "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/",
])  # fmt: skip
def test_local_machines_are_not_reached(url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("connected"))
    refused(url, "public internet|failed")


@pytest.mark.parametrize("url", [
    "http://example.com:8080/a.png", "https://example.com:80/", "http://user:secret@example.com/", "http:///a.png",
    "http://example.com:99999/", "ftp://example.com/a.png", "http://example.com/a b.png", "http://example.com/\r\nX: y",
    "http://[::1/a.png",
])  # fmt: skip
def test_addresses_of_another_form(url, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("resolved"))
    refused(url, "address was given up")


def test_a_name_with_one_private_address_is_not_reached(monkeypatch):
    found = [(2, 1, 6, "", ("1.1.1.1", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("connected"))
    refused("http://example.com/a.png", "public internet")


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.headers["Host"], self.path))
        kind = self.path.strip("/").partition("?")[0]
        if kind == "again":
            self.send_response(302)
            self.send_header("Location", self.path)
        elif kind == "inside":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/secret")
        elif kind == "missing":
            self.send_response(404)
        else:
            self.send_response(200)
            if kind == "huge":
                self.send_header("Content-Length", "5000")
        self.end_headers()
        if kind in ("huge", "endless"):
            for _ in range(50):
                self.wfile.write(b"x" * 100)
        elif kind == "small":
            self.wfile.write(b"bytes")

    def log_message(self, *args):
        pass


@pytest.fixture
def internet(monkeypatch):
    """A machine that the name example.com stands for; connections to its public address end here."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.seen, connected = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connect, resolve = socket.create_connection, socket.getaddrinfo

    def create(address, timeout=None):
        connected.append(address)
        return connect(server.server_address, timeout)

    def names(host, *args, **kwargs):
        if host == "example.com":
            return [(2, 1, 6, "", ("93.184.216.34", 80))]
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", create)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield server, connected
    server.shutdown()
    server.server_close()


def test_bytes_come_from_the_address_that_was_checked(internet):
    server, connected = internet
    assert fetching.fetch("http://example.com/small?x=1", LIMITS, "p", time.monotonic() + 10) == b"bytes"
    assert connected == [("93.184.216.34", 80)]  # and not the name, which might stand for another machine by now
    assert server.seen == [("example.com", "/small?x=1")]


@pytest.mark.parametrize(("path", "why"), [
    ("huge", "more than 1,000 bytes"), ("endless", "more than 1,000 bytes"), ("missing", "status 404"),
    ("again", "redirects more than 2"), ("inside", "public internet"),
])  # fmt: skip
def test_what_is_given_up(internet, path, why):
    server, connected = internet
    refused(f"http://example.com/{path}", why)
    assert {address for address, _ in connected} == {"93.184.216.34"}
    assert len(server.seen) == (3 if path == "again" else 1)


def test_the_deadline_ends_it(internet):
    with pytest.raises(ApiError, match="TimeoutError"):
        fetching.fetch("http://example.com/small", LIMITS, "p", time.monotonic() - 1)


def test_a_server_that_may_fetch_still_reaches_no_local_machine():
    app, _ = tiny_app(limits={"allow_url": True})
    with TestClient(app) as client:
        reply = client.post(URL, json=body(pictures=["http://127.0.0.1:80/a.png"]))
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "url_failed"
