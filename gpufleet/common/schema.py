"""The OpenAPI document: drf-spectacular's, with the conventions of the contract."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter

from gpufleet.common.idempotency import HEADER, REPLAYED
from gpufleet.common.problems import MEDIA_TYPE

TEXT = {"type": "string"}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem document; figures that belong to the problem stand beside these members.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "instance": TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {"pointer": TEXT, "code": TEXT, "detail": TEXT},
            },
        },
    },
}
PROBLEMS = {
    "400": "The input is not valid; errors names the places.",
    "401": "No key, or one that is unknown, expired, revoked or of an inactive tenant.",
    "403": "The key may not do this.",
    "404": "No such resource, or none that the key may see.",
    "409": "The present state does not allow it.",
    "411": "The body comes in chunks, without its length.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "422": "The Idempotency-Key came before with another request.",
    "429": "Too many requests.",
    "5XX": "Something broke on our side, or is not available at the moment.",
}
OF_CHANGES = {"409"}
OF_BODIES = {"411", "413", "415"}
OF_KEYS = {"422"}
PROBLEM_HEADERS = {"401": "WWW-Authenticate", "429": "Retry-After"}
IDENTIFIER = {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
IDEMPOTENCY_KEY = OpenApiParameter(
    name=HEADER,
    type={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    location=OpenApiParameter.HEADER,
    description="Makes the request repeatable: the first answer is kept for 24 hours and sent again.",
)


class ContractSchema(AutoSchema):
    """drf-spectacular's reading of a view, and what it can't know of ours."""

    def get_tags(self) -> list[str]:
        """The first part of the path below ``/api``."""
        return [self.path.removeprefix("/api/").split("/")[0]]

    def get_override_parameters(self) -> Any:
        """The view's own, and ``Idempotency-Key`` where the handler takes it."""
        handler = getattr(self.view, getattr(self.view, "action", None) or self.method.lower(), None)
        extra = [IDEMPOTENCY_KEY] if getattr(handler, "is_idempotent", False) else []
        return [*super().get_override_parameters(), *extra]

    def _get_filter_parameters(self) -> Any:
        return super()._get_filter_parameters() if self.method == "GET" else []  # type: ignore[no-untyped-call]

    def _get_pagination_parameters(self) -> Any:
        return super()._get_pagination_parameters() if self.method == "GET" else []  # type: ignore[no-untyped-call]

    def _get_paginator(self) -> Any:
        """Only lists that are read have pages; a POST that answers a list gives it whole."""
        return super()._get_paginator() if self.method == "GET" else None  # type: ignore[no-untyped-call]


class StrictSerializerSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # its base registers it
    """Strict bodies take no other member, and the document says so."""

    target_class = "gpufleet.common.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> Any:
        """The usual schema, closed."""
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**schema, "additionalProperties": False}


def describe_contract(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Give each operation its problem answers and headers, and each id its type: drf-spectacular's last hook."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    components["responses"] = {f"Problem{status}": _problem(status) for status in PROBLEMS}
    for path, operations in result.get("paths", {}).items():
        for method, operation in operations.items():
            _describe(path, method, operation)
    return result


def _problem(status: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    header = PROBLEM_HEADERS.get(status)
    headers = {"headers": {header: {"schema": TEXT}}} if header else {}
    return {"description": PROBLEMS[status], "content": content, **headers}


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    if "id" in parameters:
        parameters["id"]["schema"] = IDENTIFIER
    for status in PROBLEMS.keys() - _impossible(path, method, idempotent=HEADER in parameters):
        operation["responses"].setdefault(status, {"$ref": f"#/components/responses/Problem{status}"})
    operation["responses"] = dict(sorted(operation["responses"].items()))
    for name, meaning in (("cursor", "Link"), (HEADER, REPLAYED)):
        if name in parameters:
            _add_header(operation, meaning)


def _impossible(path: str, method: str, *, idempotent: bool) -> set[str]:
    impossible = set() if idempotent else set(OF_KEYS)
    if method in ("get", "delete"):
        impossible |= OF_BODIES
    if method == "get":
        impossible |= OF_CHANGES
        if "{" not in path:
            impossible.add("404")
    return impossible


def _add_header(operation: dict[str, Any], name: str) -> None:
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            response.setdefault("headers", {})[name] = {"schema": TEXT}
