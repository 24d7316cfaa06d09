"""Figures that take longer than a page may, kept as they were at an instant. Whoever shows one says of which.

What somebody has looked at lately is made anew every minute by beat (``dashboard.keep_figures``), and what stands on
everybody's first pages every five minutes whoever looks. So whoever keeps a page open never waits for its figures, and
sees none that are older than two minutes. What is not kept is made when it is asked for, as is everything while Redis
is away; nothing but the answer's speed hangs on it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from django.core.cache import cache
from redis import RedisError

T = TypeVar("T")

RENEWED_EVERY: Final = timedelta(seconds=60)
# What nobody looks at is renewed this rarely, if at all, and is never shown when it is older than ``OLDEST``.
STANDING_EVERY: Final = timedelta(minutes=5)
OLDEST: Final = timedelta(minutes=6)
WATCHED_FOR: Final = timedelta(minutes=10)
# Part of the names in the cache: another one where what is kept has changed its form.
FORM: Final = "3"


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """Figures, and the instant that they are of."""

    at: datetime
    figures: T


@dataclass(frozen=True, slots=True)
class Maker:
    """How figures are made at an instant; ``standing``: they are kept whoever looks."""

    make: Callable[[datetime], Any]
    standing: bool = False


def kept(name: str, make: Callable[[datetime], T], *, now: datetime, anew: bool = False) -> Kept[T]:
    """The figures as they are kept, or made ``anew``; from here on they are watched."""
    with suppress(RedisError):
        cache.set(_watched(name), 1, timeout=WATCHED_FOR.seconds)
        found: Kept[T] | None = None if anew else cache.get(_figures(name))
        if found is not None and now - OLDEST < found.at <= now:
            return found
    return _renew(name, make, now)


def keep_watched(makers: Mapping[str, Maker], *, clock: Callable[[], datetime]) -> int:
    """Make anew what is watched or standing, and due. Returns how many that were; of none while Redis is away."""
    try:
        watched = cache.get_many([_watched(name) for name in makers])
        found: dict[str, Kept[Any]] = cache.get_many([_figures(name) for name in makers])
    except RedisError:
        return 0
    due = [
        name
        for name, maker in makers.items()
        if _is_due(found.get(_figures(name)), _watched(name) in watched, maker.standing, clock())
    ]
    for name in due:
        _renew(name, makers[name].make, clock())
    return len(due)


def _is_due(found: Kept[Any] | None, watched: bool, standing: bool, now: datetime) -> bool:
    if not (watched or standing):
        return False
    if found is None:
        return True
    # Beat comes a little early or late; what is nearly due is due.
    return now - found.at >= (RENEWED_EVERY if watched else STANDING_EVERY) - timedelta(seconds=5)


def _renew(name: str, make: Callable[[datetime], T], now: datetime) -> Kept[T]:
    made = Kept(now, make(now))
    with suppress(RedisError):
        cache.set(_figures(name), made, timeout=OLDEST.seconds)
    return made


def _figures(name: str) -> str:
    return f"kept:{FORM}:{name}"


def _watched(name: str) -> str:
    return f"kept:{FORM}:{name}:watched"
