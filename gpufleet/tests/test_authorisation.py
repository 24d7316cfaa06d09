"""The authorisation table against the real handlers: every cell is called, and a route without its row fails."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admindocs.views import simplify_regex
from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from pytest_django import Settings

from gpufleet.tests.authorisation_table import API, EVERYBODY, Row
from gpufleet.tests.authorisation_world import MARK, World, make_world

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
NOWHERE = 404_404_404
UNKNOWN = {"anonymous", "revoked", "expired", "operator", "finance"}
OUTSIDE = ("/admin/",)  # The console, which has a table of its own.

pytestmark = pytest.mark.django_db


def routes() -> dict[str, Any]:
    """Each route's template with ids as ``{id}``, and the view that serves it, from the URL configuration."""
    return {path: callback for path, callback in _walk(get_resolver().url_patterns, "") if not path.startswith(OUTSIDE)}


def _walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        whole = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, whole)
        else:
            yield re.sub(r"<[^>]+>", "{id}", simplify_regex(whole)), pattern.callback


def methods_of(callback: Any) -> set[str]:
    """The methods that a view serves, HEAD and OPTIONS aside; a plain function says nothing and counts as GET."""
    actions = getattr(callback, "actions", None)
    if actions is not None:
        return {method.upper() for method in actions} - {"HEAD"}
    view = getattr(callback, "cls", None)
    return {"GET"} if view is None else {method for method in METHODS if hasattr(view, method.lower())}


@pytest.fixture
def world(settings: Settings) -> World:
    settings.API_RATE_ANONYMOUS = settings.API_RATE_PER_KEY = 1_000_000
    return make_world(timezone.now())


def call(world: World, row: Row, caller: str, settings: Settings, *, method: str = "") -> Any:
    """The answer to one cell's request, whose effects are undone again."""
    settings.GPUFLEET_DEMO = caller == "demo"
    path = row.route.replace("{id}", str(world.ids.get(row.object_name))) + row.query
    client: Any = world.clients[caller]
    with transaction.atomic():
        answer = getattr(client, (method or row.method).lower())(path, world.fill(row.body), format="json")
        transaction.set_rollback(True)
    return answer


def expected(row: Row, caller: str) -> int:
    """The status of a cell; 200 stands for any success."""
    if caller in row.may.split():
        return 200
    if caller in UNKNOWN or (caller == "demo" and row.method != "GET"):
        return 401
    return row.hidden_as if caller in row.hidden.split() else 403


@pytest.mark.parametrize("row", API, ids=lambda row: row.id)
def test_every_cell(world: World, settings: Settings, row: Row) -> None:
    found = {}
    for caller in EVERYBODY.split():
        status = call(world, row, caller, settings).status_code
        found[caller] = 200 if 200 <= status < 300 else status
    assert found == {caller: expected(row, caller) for caller in EVERYBODY.split()}


@pytest.mark.parametrize("row", [row for row in API if "{id}" in row.route or row.hidden], ids=lambda row: row.id)
def test_whoever_may_not_see_an_object_cannot_tell_that_it_is_there(world: World, settings: Settings, row: Row) -> None:
    elsewhere = replace(world, ids={**world.ids, row.object_name: NOWHERE})
    for caller in set(EVERYBODY.split()) - set(row.may.split()):
        there, nowhere = call(world, row, caller, settings), call(elsewhere, row, caller, settings)
        assert there.status_code == nowhere.status_code, caller
        assert _without(there, world.ids[row.object_name]) == _without(nowhere, NOWHERE), caller


def _without(answer: Any, object_id: int) -> str:
    """The body with the object's id left out."""
    return re.sub(rf"\b{object_id}\b", "{id}", answer.content.decode())


@pytest.mark.parametrize(
    "row", [row for row in API if row.method == "GET" and "B" in row.may.split()], ids=lambda row: row.id
)
def test_bob_finds_nothing_of_alices(world: World, settings: Settings, row: Row) -> None:
    assert MARK not in call(world, row, "B", settings).content.decode()


@pytest.mark.parametrize("row", [row for row in API if row.method == "GET"], ids=lambda row: row.id)
def test_head_is_for_whom_get_is(world: World, settings: Settings, row: Row) -> None:
    for caller in EVERYBODY.split():
        answer = call(world, row, caller, settings, method="head")
        assert answer.status_code == call(world, row, caller, settings).status_code, caller
        assert answer.getvalue() == b"", caller


@pytest.mark.parametrize("route", sorted({row.route for row in API}))
def test_a_method_without_a_row_is_for_nobody(world: World, settings: Settings, route: str) -> None:
    rows = {row.method: row for row in API if row.route == route}
    for method in set(METHODS) - set(rows):
        known = next(iter(rows.values()))
        row = Row(method, route, "", of=known.of)
        # Where no key is known, an admin's is not either.
        assert call(world, row, "admin", settings).status_code == (401 if known.hidden_as == 401 else 405), method
        if route not in ("/healthz", "/readyz", "/api/schema", "/api/docs"):
            assert call(world, row, "anonymous", settings).status_code == 401, method


def test_every_route_has_its_rows_and_every_row_its_route() -> None:
    served = {(method, path) for path, callback in routes().items() for method in methods_of(callback)}
    tabled = [(row.method, row.route) for row in API]
    assert served - set(tabled) == set(), "routes without a row in authorisation_table.py"
    assert set(tabled) - served == set(), "rows in authorisation_table.py without a route"
    assert len(tabled) == len(set(tabled)), "rows that stand twice"


def test_rows_name_callers_that_there_are() -> None:
    for row in API:
        assert {*row.may.split(), *row.hidden.split()} <= set(EVERYBODY.split()), row.id
        assert not set(row.may.split()) & set(row.hidden.split()), row.id
