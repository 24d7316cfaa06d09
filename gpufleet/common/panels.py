"""What apps above add to the page of a lower app's row, above its fields."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import Model
from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of a row's page; its template knows ``shown`` as ``p``."""

    template: str
    shown: Any


MakePanel = Callable[[HttpRequest, Any], Panel]
_panels_of: dict[type[Model], list[MakePanel]] = {}


def panel_on(model: type[Model]) -> Callable[[MakePanel], MakePanel]:
    """Add a panel to the page of a model's row."""

    def register(make: MakePanel) -> MakePanel:
        _panels_of.setdefault(model, []).append(make)
        return make

    return register


def panels_of(request: HttpRequest, row: Model) -> list[Panel]:
    """The panels of a row's page."""
    return [make(request, row) for make in _panels_of.get(type(row), [])]
