"""The OpenAPI document: valid, without a warning, and true to the contract's conventions."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from gpufleet.common.docs import openapi_document


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in openapi_document()["paths"].items()
        for method, operation in methods.items()
    ]


def parameter_names(operation: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", [])}


def test_the_document_is_valid_and_made_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")
    assert "Warning" not in capsys.readouterr().err


def test_it_is_served_as_json_to_everybody(client: Client) -> None:
    answer = client.get("/api/schema")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/vnd.oai.openapi+json")
    assert answer.json()["openapi"].startswith("3.1.")
    assert answer.json()["paths"].keys() == openapi_document()["paths"].keys()


@pytest.mark.parametrize("path", ["/api/schema", "/api/docs"])
def test_both_pages_refuse_as_the_rest_of_the_api_does(client: Client, path: str) -> None:
    for answer, status in (
        (client.get(f"{path}?format=yaml"), 400),
        (client.post(path), 405),
        (client.options(path), 405),
    ):
        assert answer.status_code == status
        assert answer["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_the_docs_load_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/docs")
    assert page["Content-Type"].startswith("text/html")
    html = page.content.decode()
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", html)
    assert any("swagger-ui-bundle" in asset for asset in loaded)
    assert all(asset.startswith("/static/") for asset in loaded)
    assert not re.search(r"https?://(?!testserver)", html.replace("http://www.w3.org", ""))


def test_every_operation_wants_a_key_but_the_webhook() -> None:
    assert openapi_document()["components"]["securitySchemes"]["bearerKey"]["scheme"] == "bearer"
    open_to_all = [path for path, _, operation in operations() if operation.get("security") != [{"bearerKey": []}]]
    assert set(open_to_all) <= {"/api/billing/stripe/webhook"}


def test_every_operation_says_what_it_refuses_with() -> None:
    for path, method, operation in operations():
        statuses = set(operation["responses"])
        assert {"400", "401", "403", "429", "5XX"} <= statuses, (method, path)
        assert ("409" in statuses) == (method != "get"), (method, path)
        assert ("415" in statuses) == (method not in ("get", "delete")), (method, path)
        assert ("422" in statuses) == ("Idempotency-Key" in parameter_names(operation)), (method, path)
        assert ("404" in statuses) or (method == "get" and "{" not in path), (method, path)
        assert any(status.startswith("2") for status in statuses), (method, path)


# Stripe's own deliveries are told apart by their events, and a question changes nothing.
CREATE_NOTHING = ("/api/billing/stripe/webhook", "/api/jobs/simulate")


def test_every_post_can_be_repeated_under_a_key() -> None:
    for path, method, operation in operations():
        takes_key = "Idempotency-Key" in parameter_names(operation)
        assert takes_key == (method == "post" and path not in CREATE_NOTHING), (method, path)


def test_only_what_is_read_takes_filters_and_pages() -> None:
    for path, method, operation in operations():
        if method != "get":
            assert parameter_names(operation) <= {"id", "days", "Idempotency-Key"}, (method, path)


def test_every_list_has_pages() -> None:
    for path, method, operation in operations():
        content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
        name = str(content.get("schema", {}).get("$ref", "")).rsplit("/", 1)[-1]
        if method == "get" and openapi_document()["components"]["schemas"].get(name, {}).get("type") == "array":
            assert {"limit", "cursor"} <= parameter_names(operation), path
            assert "Link" in operation["responses"]["200"]["headers"], path


def test_ids_are_integers() -> None:
    for _, _, operation in operations():
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                assert parameter["schema"]["type"] == "integer"


def test_bodies_are_closed_and_say_so() -> None:
    schemas = openapi_document()["components"]["schemas"]
    for path, method, operation in operations():
        if path == "/api/billing/stripe/webhook":
            continue  # Its body is Stripe's to shape.
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for body in alternatives(content["schema"], schemas):
                assert body["additionalProperties"] is False, (method, path)


def alternatives(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that may be sent: by themselves, in an array, or one kind or the other."""
    schema = schemas[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    within = schema.get("oneOf") or ([schema["items"]] if "items" in schema else [])
    for one in within:
        yield from alternatives(one, schemas)
    if not within:
        yield schema


def test_bodies_are_json() -> None:
    for path, method, operation in operations():
        assert set(operation.get("requestBody", {}).get("content", {})) <= {"application/json"}, (method, path)
