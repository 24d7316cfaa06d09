"""What is kept: of when it is, for how long, and what happens without Redis."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.core.cache import cache
from redis import RedisError

from billing.tests.factories import NOW
from dashboard.kept import OLDEST, RENEWED_EVERY, STANDING_EVERY, Maker, keep_watched, kept

SECOND = timedelta(seconds=1)


@pytest.fixture
def made() -> list[datetime]:
    """The instants at which the figures were made."""
    return []


@pytest.fixture
def make(made: list[datetime]) -> Callable[[datetime], int]:
    def count(now: datetime) -> int:
        made.append(now)
        return len(made)

    return count


def beat(make: Callable[[datetime], int], at: datetime, *, standing: bool = False) -> int:
    return keep_watched({"one": Maker(make, standing=standing)}, clock=lambda: at)


def test_what_is_kept_says_of_when_it_is(make: Callable[[datetime], int]) -> None:
    first = kept("one", make, now=NOW)
    assert (first.at, first.figures) == (NOW, 1)
    assert kept("one", make, now=NOW + 59 * SECOND) == first
    assert kept("other", make, now=NOW).figures == 2


def test_nothing_is_shown_that_is_older_than_the_oldest(make: Callable[[datetime], int]) -> None:
    kept("one", make, now=NOW)
    assert kept("one", make, now=NOW + OLDEST - SECOND).figures == 1
    assert kept("one", make, now=NOW + OLDEST).figures == 2


def test_figures_of_the_future_are_not_shown(make: Callable[[datetime], int]) -> None:
    kept("one", make, now=NOW + 30 * SECOND)
    assert kept("one", make, now=NOW).at == NOW


def test_it_is_made_anew_for_whoever_asks_for_that(make: Callable[[datetime], int]) -> None:
    kept("one", make, now=NOW)
    assert kept("one", make, now=NOW + SECOND, anew=True).figures == 2
    assert kept("one", make, now=NOW + 2 * SECOND).figures == 2


def test_beat_renews_what_is_watched_each_minute_and_nothing_else(make: Callable[[datetime], int]) -> None:
    assert beat(make, NOW) == 0
    kept("one", make, now=NOW)
    assert beat(make, NOW + 30 * SECOND) == 0
    assert beat(make, NOW + RENEWED_EVERY) == 1
    assert kept("one", make, now=NOW + 90 * SECOND).at == NOW + RENEWED_EVERY


def test_beat_renews_what_stands_every_five_minutes_whoever_looks(make: Callable[[datetime], int]) -> None:
    assert beat(make, NOW, standing=True) == 1
    assert beat(make, NOW + RENEWED_EVERY, standing=True) == 0
    assert beat(make, NOW + STANDING_EVERY, standing=True) == 1


def test_without_redis_everything_is_made_when_it_is_asked_for(
    make: Callable[[datetime], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept("one", make, now=NOW)

    def away(*args: object, **kwargs: object) -> None:
        raise RedisError("away")

    for method in ("get", "set", "get_many"):
        monkeypatch.setattr(cache, method, away)
    assert kept("one", make, now=NOW + SECOND).at == NOW + SECOND
    assert beat(make, NOW + 90 * SECOND, standing=True) == 0
