"""Serializers that refuse what they do not know, so that a mistyped field is an error and not a default."""

import math
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail
from rest_framework.request import Request

from gpufleet.common.query import LARGEST_ID
from gpufleet.common.times import parse_instant


class FiniteFloatField(serializers.FloatField):
    """A float that JSON can say: the framework's own takes true for 1, and the strings "nan" and "inf"."""

    def to_internal_value(self, data: Any) -> float:
        """The number. Raises ``ValidationError`` for what is none."""
        if isinstance(data, bool):
            self.fail("invalid")
        try:
            number = float(super().to_internal_value(data))
        except OverflowError:  # An integer of hundreds of digits.
            number = math.inf
        if not math.isfinite(number):
            self.fail("invalid")
        return number


class StrictSerializer(serializers.Serializer[Any]):
    """Input with exactly the declared fields; any other name is a 400 that points at it."""

    def to_internal_value(self, data: Any) -> Any:
        """Check the names, then the values. Raises ``ValidationError``."""
        if isinstance(data, Mapping):
            writable = {name for name, field in self.fields.items() if not field.read_only}
            unknown = [name for name in data if name not in writable]
            if unknown:
                known = ", ".join(sorted(writable))
                message = f"There is no such field here. Known: {known}."
                raise serializers.ValidationError(
                    {str(name): [ErrorDetail(message, code="unknown_field")] for name in unknown}
                )
        return super().to_internal_value(data)


class IdField(serializers.IntegerField):
    """A row's id: a positive integer that fits the database's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=LARGEST_ID, **kwargs)


class RowField(serializers.PrimaryKeyRelatedField):  # type: ignore[type-arg]  # of whichever model
    """A row by its id. The framework's own takes 1.5 for 1: another row than the one that was meant."""

    def to_internal_value(self, data: Any) -> Any:
        """The row. Raises ``ValidationError`` for what is no id, and for a row that is not there."""
        if isinstance(data, float):
            self.fail("incorrect_type", data_type="float")
        return super().to_internal_value(data)


class InstantField(serializers.DateTimeField):
    """An RFC 3339 time; one without its offset is refused, since whose clock it means would be a guess."""

    def to_internal_value(self, value: Any) -> Any:
        """The instant in UTC. Raises ``ValidationError``."""
        try:
            return parse_instant(value if isinstance(value, str) else "")
        except ValueError:
            self.fail("invalid", format="RFC 3339 with its offset, such as 2026-11-23T14:20:00Z")


def checked_body(
    serializer_class: type[StrictSerializer], request: Request, *, partial: bool = False
) -> dict[str, Any]:
    """The body's values after the serializer's checks. Raises ``ValidationError`` (400)."""
    serializer = serializer_class(data=request.data, partial=partial)
    serializer.is_valid(raise_exception=True)
    values: dict[str, Any] = serializer.validated_data
    return values
