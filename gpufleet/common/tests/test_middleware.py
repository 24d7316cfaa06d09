import logging
from typing import Any

import pytest
import structlog
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from pytest_django import Settings

from gpufleet.common.middleware import (
    AccessLogMiddleware,
    DemoVisitorMiddleware,
    RequestIdMiddleware,
    TrailingSlashMiddleware,
)
from gpufleet.common.tests.factories import Someone

FACTORY = RequestFactory()


def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.path_info, status=418)


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        ("0f1e2d3c-trace.1", True),
        ("short", False),
        ("x" * 129, False),
        ("a b c d e f", False),
        ("<script>alert", False),
        ("", False),
    ],
)
def test_a_harmless_request_id_is_kept_and_any_other_replaced(offered: str, kept: bool) -> None:
    response = RequestIdMiddleware(answer)(FACTORY.get("/", headers={"X-Request-Id": offered}))
    given = response.headers["X-Request-Id"]
    assert (given == offered) is kept
    assert kept or len(given) == 32


def test_log_lines_of_a_request_carry_its_id_and_those_after_it_do_not() -> None:
    bound: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        bound.append(structlog.contextvars.get_contextvars().get("request_id"))
        return HttpResponse()

    response = RequestIdMiddleware(view)(FACTORY.get("/"))
    assert bound == [response.headers["X-Request-Id"]]
    assert "request_id" not in structlog.contextvars.get_contextvars()


def test_a_request_is_one_line_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    request = FACTORY.post("/api/things?secret=1", headers={"Authorization": "Bearer secret"})
    request.auth = Someone()  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        AccessLogMiddleware(answer)(request)
    (record,) = caplog.records
    line: Any = record.msg
    assert {name: line[name] for name in ("event", "method", "path", "status", "actor")} == {
        "event": "request",
        "method": "POST",
        "path": "/api/things",
        "status": 418,
        "actor": "key:1",
    }
    assert line["ms"] >= 0
    assert "secret" not in str(line)


def test_probes_are_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        AccessLogMiddleware(answer)(FACTORY.get("/healthz"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/api/clusters/", "/api/clusters"),
        ("/api/clusters", "/api/clusters"),
        ("/api/clusters/5/", "/api/clusters/5"),
        ("/api/clusters//", "/api/clusters/"),
        ("/api/", "/api/"),
        ("/apis/", "/apis/"),
        ("/admin/", "/admin/"),
        ("/", "/"),
    ],
)
def test_api_paths_are_served_with_and_without_a_slash_at_the_end(path: str, served: str) -> None:
    request = FACTORY.post(path)
    assert TrailingSlashMiddleware(answer)(request).content.decode() == served
    assert request.path == served


@pytest.mark.parametrize(
    ("demo", "path", "headers", "marked"),
    [
        (True, "/api/things", {}, True),
        (True, "/api", {}, True),
        (True, "/api/things", {"Authorization": "Bearer x"}, False),
        (True, "/admin/", {}, False),
        (False, "/api/things", {}, False),
    ],
)
def test_answers_to_demo_visitors_say_so(
    settings: Settings, demo: bool, path: str, headers: dict[str, str], marked: bool
) -> None:
    settings.GPUFLEET_DEMO = demo
    response = DemoVisitorMiddleware(answer)(FACTORY.get(path, headers=headers))
    assert response.headers.get("X-Gpufleet-Demo") == ("read-only" if marked else None)
