"""Query parameters are strict: an unknown or repeated one is a 400 that names it; a typo never returns everything."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.db.models import QuerySet
from django.http import QueryDict
from django_filters import rest_framework as filters
from rest_framework.request import Request

from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.times import parse_instant

if TYPE_CHECKING:
    from rest_framework.views import APIView

LARGEST_ID = 2**63 - 1  # PostgreSQL's bigint.


def check_parameters(params: QueryDict, allowed: Iterable[str]) -> None:
    """Raise ``InvalidInput`` for parameters that are not allowed, stand twice, are empty, or hold a NUL character."""
    known = set(allowed)
    problems = []
    for name, values in params.lists():
        if name not in known:
            detail = f"There is no parameter {name!r} here. Known: {', '.join(sorted(known)) or 'none'}."
            problems.append(FieldProblem(f"?{name}", "unknown_parameter", detail))
        elif len(values) > 1:
            problems.append(FieldProblem(f"?{name}", "repeated_parameter", f"{name!r} stands {len(values)} times."))
        elif not values[0]:
            problems.append(FieldProblem(f"?{name}", "empty_parameter", f"{name!r} has no value; leave it out."))
        elif "\x00" in values[0]:
            problems.append(FieldProblem(f"?{name}", "null_character", f"{name!r} holds a NUL character."))
    if problems:
        raise InvalidInput(*problems)


def parse_bounded_int(text: str | None, *, name: str, default: int, low: int, high: int) -> int:
    """An integer parameter within ``[low, high]``, or the default when absent. Raises ``InvalidInput``."""
    if text is None:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18 or not low <= int(text) <= high:
        detail = f"{name} is an integer from {low} to {high}."
        raise InvalidInput(FieldProblem(f"?{name}", "out_of_range", detail))
    return int(text)


def parse_days(params: QueryDict) -> int:
    """``days``: an integer from 1 to 90, 30 when absent. Raises ``InvalidInput``."""
    return parse_bounded_int(params.get("days"), name="days", default=30, low=1, high=90)


def parse_time(params: QueryDict, name: str) -> datetime | None:
    """An RFC 3339 instant with its offset, in UTC, or None when absent. Raises ``InvalidInput``."""
    text = params.get(name)
    if text is None:
        return None
    try:
        return parse_instant(text)
    except ValueError as error:
        detail = f"{name} is an RFC 3339 time with its offset, such as 2026-11-23T14:20:00Z."
        raise InvalidInput(FieldProblem(f"?{name}", "invalid_time", detail)) from error


class StrictParametersMixin:
    """Checks every request's query parameters before its handler runs.

    A view names what it takes beyond its filters in ``extra_parameters``, or by action in
    ``action_parameters``: ``{"usage": ("days",)}``. Only ``list`` takes filters, ``limit`` and ``cursor``.
    """

    extra_parameters: tuple[str, ...] = ()
    action_parameters: dict[str, tuple[str, ...]] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authentication, scope and throttling first; then the parameters."""
        super().initial(request, *args, **kwargs)  # type: ignore[misc]  # a mixin for APIView
        if hasattr(self, str(request.method).lower()):  # Else the route lacks the method, which is a 405.
            check_parameters(request.query_params, self._allowed_parameters())

    def _allowed_parameters(self) -> set[str]:
        action = getattr(self, "action", "") or ""
        allowed = set(self.extra_parameters) | set(self.action_parameters.get(action, ()))
        if action == "list":
            allowed |= {"limit", "cursor"}
            filterset = getattr(self, "filterset_class", None)
            if filterset is not None:
                allowed |= set(filterset.base_filters)
        return allowed


class IdFilter(filters.NumberFilter):  # type: ignore[misc]  # django-filter has no types
    """By the id of another row. The framework's own number filter takes 1.5 for 1."""

    field_class = forms.IntegerField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, min_value=1, max_value=LARGEST_ID, **kwargs)

    def get_max_validator(self) -> None:
        """The field brings its own."""


class _YesOrNo(forms.Field):
    """``true`` or ``false``. The framework's own takes everything else for nothing, which filters nothing."""

    default_error_messages = {"invalid": "This is true or false."}

    def clean(self, value: Any) -> bool | None:
        """True, False, or None where it is not asked for. Raises ``ValidationError``."""
        if value in (None, ""):
            return None
        if str(value).lower() not in ("true", "false"):
            raise forms.ValidationError(self.default_error_messages["invalid"], code="invalid")
        return str(value).lower() == "true"


class YesNoFilter(filters.BooleanFilter):  # type: ignore[misc]  # django-filter has no types
    """By a yes or no; a word that is neither is refused."""

    field_class = _YesOrNo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, widget=forms.TextInput, **kwargs)


class StrictFilterBackend(filters.DjangoFilterBackend):  # type: ignore[misc]  # django-filter has no types
    """django-filter, with its complaints in the contract's shape."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: "APIView") -> QuerySet[Any]:
        """Filter by the view's ``filterset_class``. Raises ``InvalidInput`` that names the parameters."""
        filterset = self.get_filterset(request, queryset, view)
        if filterset is None:
            return queryset
        if not filterset.is_valid():
            problems = [
                FieldProblem(f"?{name}", entry["code"] or "invalid", entry["message"])
                for name, entries in filterset.errors.get_json_data().items()
                for entry in entries
            ]
            raise InvalidInput(*problems)
        result: QuerySet[Any] = filterset.qs
        return result
