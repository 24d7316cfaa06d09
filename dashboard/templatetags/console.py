"""How figures look on the home page."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django import template

from dashboard.console import Amount, StateCount

register = template.Library()


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of the bar of states: where it begins and how wide it is, of 100."""

    state: str
    start: float
    width: float


@register.filter
def stacked(counts: Iterable[StateCount]) -> Iterator[Bar]:
    """The states side by side, as wide as their shares; those without a GPU are left out."""
    start = 0.0
    for count in counts:
        if count.gpus:
            yield Bar(count.state, round(start, 3), round(100 * count.share, 3))
        start += 100 * count.share


@register.filter
def since(then: datetime, now: datetime) -> timedelta:
    """How long ago it was."""
    return now - then


@register.filter
def brief(duration: timedelta) -> str:
    """A duration in its largest unit, and the next one where it matters: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    seconds = max(int(duration.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if hours == 0:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60:02} min" if days == 0 else f"{days} d {hours % 24} h"


@register.filter
def money(one: Amount) -> str:
    """An amount for reading, with its currency."""
    return f"{one.currency} {one.amount:,.2f}"
