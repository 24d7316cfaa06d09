"""The kinds of domain error. A service raises a subclass that stands beside it; one handler turns it into an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from django.db import IntegrityError


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with the input.

    ``pointer`` is a JSON pointer as a URI fragment (``#/gpus/0/vram_mb``) for the body, or ``?name`` for a
    query parameter.
    """

    pointer: str
    code: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """The problem as it stands in the answer's ``errors``."""
        return {"pointer": self.pointer, "code": self.code, "detail": self.detail}


class DomainError(Exception):
    """A rule of the domain said no; nothing has changed.

    ``code`` is a stable machine name, ``detail`` a sentence for a person, and ``data`` the figures behind it,
    which stand beside ``detail`` in the problem document.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "domain_error"
    title: ClassVar[str] = "The request was refused"

    def __init__(self, detail: str, **data: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.data: Mapping[str, Any] = data


class InvalidInput(DomainError):
    """The input is wrong in itself, whatever the state of the system: 400 with the places."""

    status = 400
    code = "invalid"
    title = "The input is not valid"

    def __init__(self, *problems: FieldProblem) -> None:
        several = f"{len(problems)} things are not valid; see errors."
        detail = problems[0].detail if len(problems) == 1 else several
        super().__init__(detail, errors=[problem.as_dict() for problem in problems])
        self.problems = problems


class Forbidden(DomainError):
    """The caller is known, and may not do this: 403."""

    status = 403
    code = "forbidden"
    title = "Not allowed"


class NotFound(DomainError):
    """There is no such row, or the caller may not know of it; the two are told apart by nothing: 404."""

    status = 404
    code = "not_found"
    title = "Not found"

    def __init__(self, detail: str = "There is no such resource.") -> None:
        super().__init__(detail)


class Conflict(DomainError):
    """The input is fine, and the present state does not allow it: 409."""

    status = 409
    code = "conflict"
    title = "The present state does not allow this"


class TooLarge(DomainError):
    """The body has more in it than one request may bring: 413."""

    status = 413
    code = "too_large"
    title = "The request is too large"


class LengthRequired(DomainError):
    """A body without its length, which no WSGI server passes on: 411, rather than to take it for an empty one."""

    status = 411
    code = "length_required"
    title = "The request needs a Content-Length"


class Unprocessable(DomainError):
    """Well-formed, allowed, and contradicting what was said before: 422."""

    status = 422
    code = "unprocessable"
    title = "The request contradicts an earlier one"


class Unavailable(DomainError):
    """Something that the request needs is away for the moment; trying again is right: 503."""

    status = 503
    code = "unavailable"
    title = "Not available at the moment"


class Unreadable(DomainError):
    """The request could not be read at all: 400."""

    code = "unreadable"
    title = "The request can't be read"


class Internal(DomainError):
    """Something broke on our side: 500. What broke is in the log, and nowhere else."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self) -> None:
        super().__init__("Something broke on our side; it is logged under the request id.")


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that refused a row, so that a service can say what it means."""
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
