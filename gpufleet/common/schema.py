"""How the contract's conventions show in the OpenAPI document."""

from typing import Any

from drf_spectacular.openapi import AutoSchema

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem document.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
PROBLEM_STATUSES = {
    "400": "The input is not valid.",
    "401": "No key, or one that is unknown, expired or revoked.",
    "403": "The key may not do this.",
    "404": "No such resource, or none that the key may see.",
    "409": "The present state does not allow it.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "422": "The Idempotency-Key came before with another request.",
    "429": "Too many requests; see Retry-After.",
}
WITH_BODY_ONLY = {"409", "413", "415", "422"}
IDEMPOTENCY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the request repeatable: the first answer is kept for 24 hours and sent again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


class ContractSchema(AutoSchema):
    """drf-spectacular's schema, with one tag an app."""

    def get_tags(self) -> list[str]:
        """The first part of the path below ``/api``."""
        return [self.path.removeprefix("/api/").split("/")[0]]


def describe_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Give each operation its problem answers and each POST its ``Idempotency-Key``."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    for path, operations in result.get("paths", {}).items():
        for method, operation in operations.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                _describe_operation(path, method, operation)
    return result


def _describe_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status, description in PROBLEM_STATUSES.items():
        if status in WITH_BODY_ONLY and method in {"get"}:
            continue
        if status == "404" and "{" not in path and method == "get":
            continue
        operation["responses"].setdefault(status, {"description": description, "content": content})
    if method == "post":
        operation.setdefault("parameters", []).append(IDEMPOTENCY_PARAMETER)
