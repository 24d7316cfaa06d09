"""Serializers that refuse what they do not know, so that a mistyped field is an error and not a default."""

import math
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail


class FiniteFloatField(serializers.FloatField):
    """A float that JSON can say: the framework's own takes the strings "nan" and "inf"."""

    def to_internal_value(self, data: Any) -> float:
        """The number. Raises ``ValidationError`` for what is none."""
        number = float(super().to_internal_value(data))
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
