"""Schemathesis over the whole OpenAPI document, with an admin's key and a tenant's, on a real database.

It sends what the document allows and what it forbids, and holds each answer to the document: never a 5xx, never a
status, media type, header or body that the document does not name. The examples are the same in every run.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from pytest_django import Settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from gpufleet.common.docs import openapi_document
from gpufleet.tests.authorisation_world import World, make_world
from gpufleet.wsgi import application

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    allow_header_conformance,
]
CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 20261123,
        "generation": {"mode": "all", "max-examples": 12, "deterministic": True, "database": "none"},
        "phases": {"coverage": {"enabled": True}},
    }
)
# Fields that name a row: without a row that is there, little behind them would ever be reached.
REFERENCES = {"cluster_id": "clusters", "node_id": "clusters/nodes", "gpu_id": "clusters/gpus", "tenant_id": "tenants"}

schema = schemathesis.openapi.from_dict(copy.deepcopy(openapi_document()), config=CONFIG)
schema.app = application


@pytest.fixture
def world(db: None, settings: Settings) -> Iterator[World]:
    """The world, in a transaction that outlives the requests, whose end would otherwise close the connection."""
    settings.API_RATE_ANONYMOUS = settings.API_RATE_PER_KEY = 1_000_000
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield make_world(timezone.now())
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.parametrize("caller", ["admin", "A"])
@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
def test_every_answer_is_in_the_document(case: "schemathesis.Case[Any]", caller: str, world: World) -> None:
    aim(case, world)
    key = world.clients[caller]._credentials["HTTP_AUTHORIZATION"]  # type: ignore[attr-defined]  # the test client's
    with transaction.atomic():
        case.call_and_validate(headers={"Authorization": key}, checks=CHECKS)
        transaction.set_rollback(True)


def aim(case: "schemathesis.Case[Any]", world: World) -> None:
    """Let three of four ids be those of rows that are there; the fourth stays whatever it is."""
    parameters: Any = case.path_parameters
    if parameters and _is_id(parameters.get("id")):
        parameters["id"] = world.ids.get(case.path.removeprefix("/api/").split("/{id}")[0], parameters["id"])
    case.body = _aimed(case.body, world)


def _aimed(body: Any, world: World) -> Any:
    if isinstance(body, list):
        return [_aimed(value, world) for value in body]
    if isinstance(body, dict):
        return {
            name: world.ids[REFERENCES[name]] if name in REFERENCES and _is_id(value) else _aimed(value, world)
            for name, value in body.items()
        }
    return body


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value % 4 != 0
