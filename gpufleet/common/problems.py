"""RFC 9457 ``application/problem+json``: the one shape of every error that leaves the API."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.errors import (
    DomainError,
    FieldProblem,
    Forbidden,
    Internal,
    InvalidInput,
    NotFound,
    TooLarge,
    Unavailable,
    Unreadable,
)

logger = structlog.stdlib.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem_body(
    *, status: int, code: str, title: str, detail: str, path: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The members of a problem document. ``type`` is a stable URN made of the machine code.

    ``extra`` members stand behind the five and never in their place.
    """
    members = {
        "type": f"urn:gpufleet:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
    }
    return {**members, **(extra or {}), **members}


def problem_response(request: HttpRequest, error: DomainError) -> HttpResponse:
    """A problem for requests that never reach a view of the API, such as an unknown path."""
    as_views_do = {"separators": (",", ":"), "ensure_ascii": False}
    body = _of_domain(error, request.path)
    return JsonResponse(body, status=error.status, content_type=MEDIA_TYPE, json_dumps_params=as_views_do)


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> Response:
    """Turn whatever a view raised into a problem. What nobody expected is logged and answered with a plain 500."""
    request: Request = context["request"]
    known = _translate(exc)
    status, body = _describe(known, request.path)
    return Response(body, status=status, content_type=MEDIA_TYPE, headers=_headers_of(known))


def _translate(exc: Exception) -> Exception:
    """The framework's errors as ours, where they mean the same."""
    if isinstance(exc, Http404 | exceptions.NotFound):
        return NotFound()
    if isinstance(exc, PermissionDenied):
        return Forbidden("This is not allowed.")
    if isinstance(exc, exceptions.PermissionDenied):
        return Forbidden(str(exc.detail))
    if isinstance(exc, exceptions.ValidationError):
        return InvalidInput(*_flatten(exc.get_full_details(), "#"))
    if isinstance(exc, RequestDataTooBig):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return TooLarge(f"The body is larger than {limit:,} bytes.", max_bytes=limit)
    if isinstance(exc, SuspiciousOperation | UnreadablePostError):
        return Unreadable("The request could not be read.")
    if isinstance(exc, OperationalError | InterfaceError):
        logger.error("the database is not available", exc_info=exc)
        return Unavailable("The database is not available at the moment; nothing has changed.")
    return exc


def _describe(exc: Exception, path: str) -> tuple[int, dict[str, Any]]:
    if isinstance(exc, DomainError):
        return exc.status, _of_domain(exc, path)
    if isinstance(exc, exceptions.APIException):
        return exc.status_code, _of_framework(exc, path)
    logger.error("unhandled error", exc_info=exc)
    return Internal.status, _of_domain(Internal(), path)


def _of_domain(error: DomainError, path: str) -> dict[str, Any]:
    return problem_body(
        status=error.status, code=error.code, title=error.title, detail=error.detail, path=path, extra=error.data
    )


def _of_framework(exc: exceptions.APIException, path: str) -> dict[str, Any]:
    details: Any = exc.get_full_details()
    code = str(details["code"]) if isinstance(details, dict) and "code" in details else exc.default_code
    title = HTTPStatus(exc.status_code).phrase
    return problem_body(status=exc.status_code, code=code, title=title, detail=str(exc.detail), path=path)


def _flatten(details: Any, pointer: str) -> Iterator[FieldProblem]:
    """Walk the framework's nested error details and give each leaf with its JSON pointer.

    An index whose entry is empty is an item of a list without a fault.
    """
    if _is_leaf(details):
        yield FieldProblem(pointer, str(details["code"]), str(details["message"]))
    elif isinstance(details, dict):
        for name, inner in details.items():
            yield from _flatten(inner, pointer if name == "non_field_errors" else f"{pointer}/{_escape(name)}")
    elif isinstance(details, list):
        for index, inner in enumerate(details):
            yield from _flatten(inner, pointer if _is_leaf(inner) else f"{pointer}/{index}")


def _is_leaf(details: Any) -> bool:
    """A message with its code, and not the errors of two fields that happen to have these names."""
    return isinstance(details, dict) and isinstance(details.get("message"), str)


def _escape(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


def _headers_of(exc: Exception) -> dict[str, str]:
    if isinstance(exc, exceptions.Throttled):
        return {"Retry-After": str(exc.wait or 1)}  # type: ignore[attr-defined]  # whole seconds
    if isinstance(exc, Unavailable):
        return {"Retry-After": "1"}
    challenge = getattr(exc, "auth_header", None)  # Set by the framework on 401s.
    return {"WWW-Authenticate": str(challenge)} if challenge else {}
