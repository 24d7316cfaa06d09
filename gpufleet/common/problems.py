"""RFC 9457 ``application/problem+json``: the one shape of every error that leaves the API."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.errors import DomainError, FieldProblem, InvalidInput

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem_body(
    *, status: int, code: str, title: str, detail: str, path: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The members of a problem document. ``type`` is a stable URN made of the machine code."""
    return {
        "type": f"urn:gpufleet:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        **(extra or {}),
    }


def problem_response(request: HttpRequest, status: int, code: str, detail: str) -> HttpResponse:
    """A problem for requests that never reach a view of the API, such as an unknown path."""
    body = problem_body(status=status, code=code, title=HTTPStatus(status).phrase, detail=detail, path=request.path)
    return JsonResponse(body, status=status, content_type=MEDIA_TYPE)


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> Response:
    """Turn whatever a view raised into a problem. What nobody expected is logged and answered with a plain 500."""
    request: Request = context["request"]
    status, body = _describe(_translate(exc), request.path)
    response = Response(body, status=status, content_type=MEDIA_TYPE)
    for name, value in _headers_of(exc).items():
        response[name] = value
    return response


def _translate(exc: Exception) -> Exception:
    if isinstance(exc, Http404):
        return exceptions.NotFound("There is no such resource.")
    if isinstance(exc, PermissionDenied):
        return exceptions.PermissionDenied()
    return exc


def _describe(exc: Exception, path: str) -> tuple[int, dict[str, Any]]:
    if isinstance(exc, InvalidInput):
        return 400, _invalid(path, list(exc.problems))
    if isinstance(exc, DomainError):
        return exc.status, problem_body(
            status=exc.status, code=exc.code, title=exc.title, detail=exc.detail, path=path, extra=exc.data
        )
    if isinstance(exc, exceptions.ValidationError):
        return 400, _invalid(path, list(_flatten(exc.get_full_details(), "#")))
    if isinstance(exc, exceptions.APIException):
        return exc.status_code, _from_framework(exc, path)
    if isinstance(exc, RequestDataTooBig):
        return 413, _plain(413, "too_large", "The body is larger than 4 MiB.", path)
    logger.exception("unhandled error", exc_info=exc)
    return 500, _plain(500, "internal_error", "Something broke on our side; it is logged under the request id.", path)


def _plain(status: int, code: str, detail: str, path: str) -> dict[str, Any]:
    return problem_body(status=status, code=code, title=HTTPStatus(status).phrase, detail=detail, path=path)


def _invalid(path: str, problems: list[FieldProblem]) -> dict[str, Any]:
    detail = problems[0].detail if len(problems) == 1 else f"{len(problems)} things are not valid; see errors."
    errors = [problem.as_dict() for problem in problems]
    return problem_body(
        status=400,
        code=InvalidInput.code,
        title=InvalidInput.title,
        detail=detail,
        path=path,
        extra={"errors": errors},
    )


def _from_framework(exc: exceptions.APIException, path: str) -> dict[str, Any]:
    details: Any = exc.get_full_details()
    code = str(details["code"]) if isinstance(details, dict) and "code" in details else exc.default_code
    return _plain(exc.status_code, code, str(exc.detail), path)


def _flatten(details: Any, pointer: str) -> Iterator[FieldProblem]:
    """Walk DRF's nested error details and give each leaf with its JSON pointer.

    An index whose entry is empty is an item of a list without a fault.
    """
    if isinstance(details, dict) and set(details) == {"message", "code"}:
        yield FieldProblem(pointer, str(details["code"]), str(details["message"]))
    elif isinstance(details, dict):
        for name, inner in details.items():
            yield from _flatten(inner, pointer if name == "non_field_errors" else f"{pointer}/{_escape(name)}")
    elif isinstance(details, list):
        for index, inner in enumerate(details):
            leaf = isinstance(inner, dict) and set(inner) == {"message", "code"}
            yield from _flatten(inner, pointer if leaf else f"{pointer}/{index}")


def _escape(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


def _headers_of(exc: Exception) -> dict[str, str]:
    headers: dict[str, str] = {}
    if getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = str(exc.auth_header)  # type: ignore[attr-defined]  # set by the framework
    if getattr(exc, "wait", None):
        headers["Retry-After"] = str(int(exc.wait) + 1)  # type: ignore[attr-defined]  # Throttled.wait, in seconds
    return headers


class BodyTooLarge(exceptions.APIException):
    """The body is larger than ``DATA_UPLOAD_MAX_MEMORY_SIZE``."""

    status_code = 413
    default_code = "too_large"
    default_detail = "The body is larger than 4 MiB."


class StrictJSONParser(JSONParser):
    """JSON as RFC 8259 has it and PostgreSQL can store it.

    No NaN or Infinity (also not by overflow, such as 1e999), no duplicate names, no NUL characters and no lone
    surrogates, which no UTF-8 database takes.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Decode the body. Raises ``ParseError`` (400) for what is not strict JSON, ``BodyTooLarge`` (413)."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise BodyTooLarge
        try:
            data = json.loads(
                raw.decode("utf-8"),
                parse_constant=_refuse_constant,
                parse_float=_finite,
                object_pairs_hook=_unique_names,
            )
            if b"\\u" in raw or b"\x00" in raw:
                _check_characters(data)
        except (ValueError, RecursionError) as error:
            raise exceptions.ParseError(f"The body is not valid JSON: {error}") from error
        return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is out of range")
    return number


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _check_characters(data: Any) -> None:
    """Only escapes can bring a NUL or a lone surrogate, so this runs only on bodies that have escapes."""
    if isinstance(data, str):
        if "\x00" in data:
            raise ValueError("a string holds a NUL character")
        data.encode("utf-8")
    elif isinstance(data, dict):
        for name, inner in data.items():
            _check_characters(name)
            _check_characters(inner)
    elif isinstance(data, list):
        for inner in data:
            _check_characters(inner)
