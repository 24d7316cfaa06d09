"""The client against the OpenAPI document: every path, parameter and field that it uses is there, and of that type."""

import inspect
import json
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from gpufleet.common.docs import openapi_document

from gpufleet_agent.client import Client
from gpufleet_agent.devices import Reading
from gpufleet_agent.transport import Answer

DOCUMENT = json.loads(json.dumps(openapi_document()))
TYPES = {int: "integer", str: "string", float: "number", bool: "boolean", list: "array", dict: "object"}
# What is sent to each call that takes fields, by the code that sends it.
SENT: dict[str, list[Any]] = {
    "register_node": [dict.fromkeys(("cluster_id", "hostname", "ip_address", "total_gpus", "cpu_cores", "ram_gb"))],
    "register_gpus": [7, [dict.fromkeys(("gpu_index", "model", "vram_mb", "uuid", "pci_bus_id"))]],
    "post_metrics": [
        json.dumps({"metrics": [{"gpu_id": 1, "recorded_at": "", **vars(Reading())}]}).encode(),
    ],
    "report_run": [7, dict.fromkeys(("job_id", "run_id", "state", "exit_code", "log_tail", "message"))],
    "submit_job": [
        dict.fromkeys(
            (
                "cluster_id", "name", "gpu_count", "gpu_type", "priority", "tenant_id", "estimated_duration_min",
                "command", "image", "env", "submitted_by",
            )
        )
    ],
    "move_job": [7, "cancelled"],
    **{name: [7] for name in ("job", "explain_job", "job_runs", "usage", "assignments")},
}  # fmt: skip
NAMED = {"usage": {"days": 3}, "assignments": {"version": "x", "wait": 3}, "post_metrics": {"idempotency_key": "k"}}
METHODS = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]


class Recorder:
    """Takes the calls down."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any], Any]] = []

    def call(self, method: str, path: str, *, params: Any = None, body: Any = None, **rest: Any) -> Answer:
        self.calls.append((method.lower(), path, params or {}, json.loads(body) if isinstance(body, bytes) else body))
        return Answer({"accepted": 1} if path.endswith("metrics") else [], "")


def recorded(name: str) -> tuple[str, str, dict[str, Any], Any]:
    recorder = Recorder()
    getattr(Client(recorder), name)(*SENT.get(name, []), **NAMED.get(name, {}))  # type: ignore[arg-type]  # as Transport
    return recorder.calls[0]


def operation_of(name: str) -> Any:
    method, path, _, _ = recorded(name)
    return DOCUMENT["paths"][path.replace("/7", "/{id}")][method]


def resolved(schema: Any) -> Any:
    while "$ref" in schema or len(schema.get("allOf", [])) == 1:
        schema = (
            schema["allOf"][0]
            if "allOf" in schema
            else DOCUMENT["components"]["schemas"][schema["$ref"].split("/")[-1]]
        )
    alone = [one for one in schema.get("oneOf", []) if one.get("type") != "array"]
    # What takes one or an array of them is called with one.
    return resolved(alone[0]) if len(alone) == 1 and len(schema["oneOf"]) == 2 else schema


@pytest.mark.parametrize("name", METHODS)
def test_every_call_is_in_the_document_with_its_parameters(name: str) -> None:
    method, path, params, _ = recorded(name)
    assert path.replace("/7", "/{id}") in DOCUMENT["paths"], f"{method} {path}"
    known = {one["name"] for one in operation_of(name).get("parameters", []) if one["in"] == "query"}
    assert set(params) <= known


@pytest.mark.parametrize("name", [name for name in METHODS if recorded(name)[3] is not None])
def test_every_field_that_is_sent_is_in_the_document(name: str) -> None:
    body = recorded(name)[3]
    check_sent(body, operation_of(name)["requestBody"]["content"]["application/json"]["schema"], name)


def check_sent(body: Any, schema: Any, place: str) -> None:
    schema = resolved(schema)
    if isinstance(body, list):
        for one in body:
            check_sent(one, schema["items"], place)
    elif isinstance(body, dict):
        assert set(body) <= set(schema["properties"]), place
        assert set(schema.get("required", [])) <= set(body), place
        for field, value in body.items():
            check_sent(value, schema["properties"][field], f"{place}.{field}")


@pytest.mark.parametrize("name", METHODS)
def test_every_field_that_is_read_is_in_the_document_and_of_its_type(name: str) -> None:
    hint = get_type_hints(getattr(Client, name))["return"]
    answers = operation_of(name)["responses"]
    schema = next(
        answers[code]["content"]["application/json"]["schema"] for code in ("200", "201", "202") if code in answers
    )
    if name == "post_metrics":
        hint, schema = int, resolved(schema)["properties"]["accepted"]
    check_read(hint, schema, name)


def check_read(hint: Any, schema: Any, place: str) -> None:
    schema, nullable = without_null(schema)
    hint, optional = without_none(hint)
    assert optional or not nullable, f"{place} may be null"
    if is_typeddict(hint):
        for field, inner in get_type_hints(hint).items():
            assert field in schema["properties"], f"{place}.{field}"
            check_read(inner, schema["properties"][field], f"{place}.{field}")
        return
    assert TYPES[get_origin(hint) or hint] == schema["type"], f"{place}: {schema}"
    if get_origin(hint) is list:
        check_read(get_args(hint)[0], schema["items"], f"{place}[]")


def without_null(schema: Any) -> tuple[Any, bool]:
    """The schema without null, in any of the ways in which OpenAPI 3.1 says it, and whether it took it."""
    schema = resolved(schema)
    choices = schema.get("oneOf") or schema.get("anyOf")
    if choices:
        kept = [one for one in map(resolved, choices) if one.get("type") != "null" and one.get("enum") != [None]]
        return without_null(kept[0])[0], len(kept) < len(choices)
    if isinstance(schema.get("type"), list):
        kept = [one for one in schema["type"] if one != "null"]
        return {**schema, "type": kept[0]}, len(kept) < len(schema["type"])
    return schema, False


def without_none(hint: Any) -> tuple[Any, bool]:
    parts = get_args(hint)
    if type(None) in parts:
        return next(part for part in parts if part is not type(None)), True
    return hint, False


def test_the_check_would_notice() -> None:
    with pytest.raises(AssertionError):
        check_read(int, {"type": "string"}, "x")
    with pytest.raises(AssertionError):
        check_read(int, {"type": ["integer", "null"]}, "x")
    with pytest.raises(AssertionError):
        check_sent({"nmae": 1}, {"properties": {"name": {}}}, "x")
