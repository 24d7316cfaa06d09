"""The client against a real server of HTTP that answers what it is told to."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dashboard.demo import client
from dashboard.demo.client import Api, Refused, Stopped

Answer = tuple[int, dict[str, str], Any]


class Script:
    """Answers in their order, the last one for ever; and what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.asked.append((self.command, self.path, dict(self.headers), body))
            status, headers, answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET

        def log_message(self, *args: Any) -> None:
            """Nobody reads it."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def api(server: str, stop: threading.Event) -> Iterator[Api]:
    api = Api(server, stop=stop, rng=random.Random(1))
    yield api
    api.close()


def test_a_list_is_followed_to_its_end(api: Api, script: Script, server: str) -> None:
    script.answers = [
        (200, {"Link": f'<{server}/api/jobs?cursor=abc>; rel="next"'}, [{"id": 3}, {"id": 2}]),
        (200, {}, [{"id": 1}]),
    ]
    rows = api.get_all("/api/jobs", key="gfk_x", params={"status": "running"})
    assert [row["id"] for row in rows] == [3, 2, 1]
    assert [path for _, path, _, _ in script.asked] == ["/api/jobs?status=running", "/api/jobs?cursor=abc"]
    assert {headers["Authorization"] for _, _, headers, _ in script.asked} == {"Bearer gfk_x"}


def test_a_post_that_fails_is_sent_again_under_the_same_idempotency_key(api: Api, script: Script) -> None:
    script.answers = [(503, {}, {}), (500, {}, {}), (201, {}, {"id": 9})]
    assert api.send("POST", "/api/jobs", {"name": "x"}, key="k") == {"id": 9}
    assert [body for _, _, _, body in script.asked] == [{"name": "x"}] * 3
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in script.asked}) == 1
    api.send("POST", "/api/jobs", {"name": "x"}, key="k")
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in script.asked}) == 2


def test_a_refusal_is_told_at_once_with_its_reason(api: Api, script: Script) -> None:
    script.answers = [(409, {}, {"detail": "over quota"})]
    with pytest.raises(Refused, match="409: over quota") as refusal:
        api.send("PATCH", "/api/jobs/1/status", {"status": "completed"}, key="k")
    assert refusal.value.status == 409
    assert len(script.asked) == 1


def test_a_refusal_that_is_no_problem_document_is_a_refusal_too(api: Api, script: Script) -> None:
    script.answers = [(404, {}, ["what"])]
    with pytest.raises(Refused, match="404: Not Found"):
        api.get_all("/nowhere", key="k")


def test_who_is_told_to_wait_waits_that_long(api: Api, script: Script) -> None:
    script.answers = [(429, {"Retry-After": "1"}, {}), (200, {}, [])]
    began = time.monotonic()
    assert api.get_all("/api/jobs", key="k") == []
    assert 1.0 <= time.monotonic() - began < 3.0


def test_a_server_that_is_away_is_waited_for(stop: threading.Event) -> None:
    """Nobody listens at first; then the server is there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    api = Api(f"http://127.0.0.1:{port}", stop=stop, rng=random.Random(1))
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(api.get_all("/api/jobs", key="k")))
    asking.start()
    time.sleep(0.2)
    assert not found
    back = ThreadingHTTPServer(("127.0.0.1", port), _AlwaysEmpty)
    threading.Thread(target=back.serve_forever, daemon=True).start()
    asking.join(10)
    back.shutdown()
    back.server_close()
    api.close()
    assert found == [[]]


class _AlwaysEmpty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


def test_being_told_to_stop_ends_a_wait(api: Api, script: Script, stop: threading.Event) -> None:
    script.answers = [(429, {"Retry-After": "60"}, {})]
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        api.get_all("/api/jobs", key="k")
    assert time.monotonic() - began < 5


def test_who_was_told_to_stop_asks_nothing_more(api: Api, script: Script, stop: threading.Event) -> None:
    stop.set()
    with pytest.raises(Stopped):
        api.get_all("/api/jobs", key="k")
    assert script.asked == []


def test_waits_grow_up_to_a_limit_and_differ(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.5)
    waits = [api._backoff(attempt) for attempt in range(12)]
    assert 0.25 <= waits[0] <= 0.5
    assert all(client.LONGEST_WAIT_S / 2 <= wait <= client.LONGEST_WAIT_S for wait in waits[6:])
    assert len(set(waits)) == 12
