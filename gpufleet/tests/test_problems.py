"""One shape for every error, through the whole stack of middleware, handlers and views."""

import json
import re
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from gpufleet.common.throttling import counter_at
from tenants import queries
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

MEMBERS = {"type", "title", "status", "detail", "instance"}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer, after checking its shape."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert re.fullmatch(r"[0-9a-f]{32}", answer["X-Request-Id"])
    body: dict[str, Any] = json.loads(answer.content)
    assert set(body) >= MEMBERS
    assert body["type"] == f"urn:gpufleet:problem:{code}"
    assert body["status"] == status
    assert body["instance"] == answer.wsgi_request.path
    assert body["title"]
    assert body["detail"]
    return body


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


@pytest.fixture
def careful() -> Client:
    """A client that does not raise what the server hides."""
    return Client(raise_request_exception=False)


def post(admin: APIClient, body: bytes, content_type: str = "application/json", path: str = "/api/tenants") -> Any:
    return admin.generic("POST", path, body, content_type)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("bug", 500, "internal_error"),
        ("missing", 404, "not_found"),
        ("denied", 403, "forbidden"),
        ("suspicious", 400, "unreadable"),
        ("gone-client", 400, "unreadable"),
        ("no-database", 503, "unavailable"),
        ("lost-connection", 503, "unavailable"),
        ("conflict", 409, "conflict"),
        ("too-large", 413, "too_large"),
        ("unprocessable", 422, "unprocessable"),
    ],
)
@pytest.mark.urls("gpufleet.tests.broken_urls")
def test_whatever_a_view_raises_is_a_problem_that_tells_nothing_of_the_inside(
    careful: Client, how: str, status: int, code: str
) -> None:
    answer = careful.get(f"/api/fail/{how}")
    problem(answer, status, code)
    for secret in (b"SELECT", b"10.0.0.7", b"Traceback", b"Error(", b"<html"):
        assert secret not in answer.content


@pytest.mark.urls("gpufleet.tests.broken_urls")
def test_the_figures_of_a_refusal_stand_beside_the_members_and_never_in_their_place(careful: Client) -> None:
    body = problem(careful.get("/api/fail/conflict"), 409, "conflict")
    assert body["legal"] == ["completed"]
    assert body["status"] == 409


@pytest.mark.urls("gpufleet.tests.broken_urls")
def test_a_failure_outside_every_view_is_a_problem_in_the_api_and_a_page_elsewhere(careful: Client) -> None:
    assert b"SELECT" not in careful.get("/api/fail-outside").content
    problem(careful.get("/api/fail-outside"), 500, "internal_error")
    page = careful.get("/fail-outside")
    assert (page.status_code, page["Content-Type"].split(";")[0]) == (500, "text/html")


@pytest.mark.urls("gpufleet.tests.broken_urls")
def test_what_broke_is_in_the_log_with_the_id_of_the_answer(
    careful: Client, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = careful.get("/api/fail/bug")
    lines: list[Any] = [record.msg for record in caplog.records if record.levelname == "ERROR"]
    (line,) = [line for line in lines if isinstance(line, dict)]
    assert line["event"] == "unhandled error"
    assert line["request_id"] == answer["X-Request-Id"]


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/", "/api", "/api/tenants/x", "/api/tenants/%00", "/api/tenants/1/x"]
)
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_a_path_that_no_route_serves_is_a_problem(admin: APIClient, path: str, method: str) -> None:
    problem(getattr(admin, method)(path), 404, "not_found")


def test_a_row_that_is_not_there_and_a_path_that_is_not_there_look_the_same(admin: APIClient) -> None:
    row, route = admin.get("/api/tenants/404"), admin.get("/api/tenants/40404040404040404040")
    assert row.content.replace(b"/404", b"/40404040404040404040") == route.content


def test_a_path_outside_the_api_is_a_page() -> None:
    answer = Client().get("/nothing")
    assert (answer.status_code, answer["Content-Type"].split(";")[0]) == (404, "text/html")


def test_a_host_that_is_not_ours() -> None:
    problem(Client().get("/api/tenants", headers={"host": "evil.example"}), 400, "unreadable")


@pytest.mark.parametrize("method", ["put", "patch", "delete", "trace"])
def test_a_method_that_a_route_lacks_is_named_with_those_it_has(admin: APIClient, method: str) -> None:
    answer = admin.generic(method.upper(), "/api/tenants?unknown=parameter")
    problem(answer, 405, "method_not_allowed")
    assert {name.strip() for name in answer["Allow"].split(",")} == {"GET", "POST", "HEAD", "OPTIONS"}


def test_a_method_of_the_clients_own_invention(admin: APIClient) -> None:
    problem(admin.generic("BREW", "/api/tenants"), 405, "method_not_allowed")


def test_options_say_which_methods_there_are(admin: APIClient) -> None:
    answer = admin.options("/api/tenants")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["Allow"] == "GET, POST, HEAD, OPTIONS"
    problem(APIClient().options("/api/tenants"), 401, "not_authenticated")


@pytest.mark.parametrize(
    "accept",
    ["text/html", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "image/png", "", "///", "application/xml;q=x"],
)
def test_the_api_answers_json_whatever_the_client_would_like(admin: APIClient, accept: str) -> None:
    answer = admin.get("/api/keys", headers={"Accept": accept})
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    problem(admin.get("/api/keys?x=1", headers={"Accept": accept}), 400, "invalid")


def test_head_is_get_without_a_body(admin: APIClient) -> None:
    answer = admin.head("/api/keys")
    assert (answer.status_code, answer.content) == (200, b"")
    assert admin.head("/api/keys?x=1").status_code == 400


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/html",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=" + "x" * 300,
        "application/json+x",
        "nonsense",
    ],
)
def test_a_body_that_is_not_json_is_named_by_its_type(admin: APIClient, content_type: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nacme\r\n--x'
    problem(post(admin, body, content_type), 415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_is_taken_however_its_type_is_written(admin: APIClient, content_type: str) -> None:
    problem(post(admin, b"{}", content_type), 400, "invalid")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'{"name": "\\u0000", "gpu_quota": 1}',
        b'{"name": "\\ud800", "gpu_quota": 1}',
        b'{"name": "x", "gpu_quota": NaN}',
        b'{"name": "x", "gpu_quota": 1e999}',
        b'{"name": "x", "gpu_quota": ' + b"9" * 5000 + b"}",
        b'{"name": ' + b"[" * 50_000,
        b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"name": "x", "name": "y"}',
    ],
)
def test_a_body_that_is_not_strict_json_is_a_400(admin: APIClient, body: bytes) -> None:
    problem(post(admin, body), 400, "parse_error")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"5", b'"x"', b"true", b"{}", b'{"message": 1, "code": 2}'])
def test_a_body_of_another_shape_is_a_400_with_the_places(admin: APIClient, body: bytes) -> None:
    errors = problem(post(admin, body), 400, "invalid")["errors"]
    assert errors
    assert all(set(error) == {"pointer", "code", "detail"} for error in errors)
    assert all(error["pointer"].startswith("#") for error in errors)


def test_unknown_fields_with_the_names_of_our_own_error_members_are_pointed_at(admin: APIClient) -> None:
    errors = problem(post(admin, b'{"message": 1, "code": 2}'), 400, "invalid")["errors"]
    assert [error["pointer"] for error in errors] == ["#/message", "#/code"]


def test_a_name_with_a_slash_is_escaped_in_its_pointer(admin: APIClient) -> None:
    errors = problem(post(admin, b'{"a/b~c": 1}'), 400, "invalid")["errors"]
    assert [error["pointer"] for error in errors] == ["#/a~1b~0c"]


def test_a_body_that_is_too_large(admin: APIClient, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    body = problem(post(admin, b'{"name": "' + b"x" * 100 + b'"}'), 413, "too_large")
    assert body["max_bytes"] == 100


def test_a_body_in_chunks_is_not_taken_for_an_empty_one(admin: APIClient) -> None:
    headers = {"Transfer-Encoding": "chunked"}
    answer = admin.patch("/api/tenants/1", headers=headers)
    problem(answer, 411, "length_required")


def test_more_parameters_than_django_reads(admin: APIClient) -> None:
    problem(admin.get("/api/keys?" + "&".join(f"a{n}=1" for n in range(2000))), 400, "unreadable")


def test_a_query_that_is_no_utf_8_is_named_as_far_as_it_can_be(admin: APIClient) -> None:
    problem(admin.get("/api/keys?%ff=1&label=%ff"), 400, "invalid")


@pytest.mark.parametrize("path", ["/api/keys", "/api/tenants"])
@pytest.mark.parametrize("query", ["unknown=1", "limit=1&limit=2", "limit=", "limit=0", "cursor=%2e%2e", "format=json"])
def test_lists_take_no_parameter_they_do_not_know(admin: APIClient, path: str, query: str) -> None:
    errors = problem(admin.get(f"{path}?{query}"), 400, "invalid")["errors"]
    assert [error["pointer"] for error in errors] == ["?" + query.split("=", maxsplit=1)[0]]


@pytest.mark.parametrize(
    ("method", "path"),
    [("post", "/api/tenants"), ("get", "/api/tenants/1"), ("patch", "/api/tenants/1"), ("delete", "/api/keys/1")],
)
@pytest.mark.parametrize("query", ["dry_run=1", "limit=5"])
def test_what_is_no_list_takes_no_parameter_at_all(admin: APIClient, method: str, path: str, query: str) -> None:
    problem(getattr(admin, method)(f"{path}?{query}", {"name": "x", "gpu_quota": 1}), 400, "invalid")
    with queries.tenant_workload.stand_in(lambda ids: {}):
        assert admin.get("/api/tenants").json() == []


def test_without_a_key_and_without_the_scope() -> None:
    assert problem(APIClient().get("/api/tenants"), 401, "not_authenticated")
    problem(client_with(make_key(permissions=["write"])).get("/api/tenants"), 403, "forbidden")
    problem(client_with(make_key(alice())).get("/api/keys"), 403, "forbidden")


def test_too_many_requests_say_when_to_come_again(admin: APIClient, settings: Settings) -> None:
    settings.API_RATE_PER_KEY = settings.API_RATE_ANONYMOUS = 2
    counter_at(settings.REDIS_URL)._redis.flushdb()
    for client, usual in ((admin, 200), (APIClient(), 401)):
        answers = [client.get("/api/keys") for _ in range(6)]  # Two minutes at the most, so at least two are refused.
        assert answers[0].status_code == usual
        assert 1 <= int(answers[-1]["Retry-After"]) <= 60
        problem(answers[-1], 429, "throttled")


def test_every_answer_carries_a_request_id(admin: APIClient) -> None:
    paths = ["/api/keys", "/api/nothing", "/healthz", "/admin/login/", "/nothing"]
    assert len({admin.get(path)["X-Request-Id"] for path in paths}) == len(paths)
    assert admin.get("/api/keys", headers={"X-Request-Id": "trace-00042"})["X-Request-Id"] == "trace-00042"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api/tenants", 200),
        ("head", "/api/tenants", 200),
        ("options", "/api/tenants", 204),
        ("get", "/api/tenants?x=1", 400),
        ("get", "/api/tenants/404", 404),
        ("get", "/api/keys", 403),
        ("put", "/api/tenants", 401),
        ("post", "/api/tenants", 401),
        ("get", "/api/nothing", 404),
    ],
)
def test_every_answer_to_a_demo_visitor_says_that_it_is_read_only(
    settings: Settings, method: str, path: str, status: int
) -> None:
    settings.GPUFLEET_DEMO = True
    with queries.tenant_workload.stand_in(lambda ids: {}):
        answer = getattr(APIClient(), method)(path)
    assert answer.status_code == status
    assert answer["X-Gpufleet-Demo"] == "read-only"


def test_nobody_else_is_told_so(admin: APIClient, settings: Settings) -> None:
    assert "X-Gpufleet-Demo" not in APIClient().get("/api/tenants")
    settings.GPUFLEET_DEMO = True
    assert "X-Gpufleet-Demo" not in admin.get("/api/keys")


def test_a_slash_at_the_end_changes_nothing(admin: APIClient) -> None:
    with queries.tenant_workload.stand_in(lambda ids: {}):
        key = {"Idempotency-Key": "once"}
        first = admin.post("/api/tenants/", {"name": "acme", "gpu_quota": 1}, headers=key)
        again = admin.post("/api/tenants", {"name": "acme", "gpu_quota": 1}, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotent-Replayed"] == "true"
