import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as configured
from pytest_django import Settings
from rest_framework.exceptions import Throttled

from gpufleet.common import throttling
from gpufleet.common.tests.factories import Someone, make_request
from gpufleet.common.throttling import Counter, check_rate, counter_at

MINUTE = 60 * 1_000_000


@pytest.fixture(autouse=True)
def limits(settings: Settings) -> Iterator[Settings]:
    settings.API_RATE_PER_KEY = 3
    settings.API_RATE_ANONYMOUS = 2
    counter_at.cache_clear()
    counter = counter_at(configured.REDIS_URL)
    counter._redis.flushdb()
    yield settings
    counter._redis.flushdb()
    counter_at.cache_clear()


def passes(
    sender: Someone | None = None, *, now: float = MINUTE, address: str = "192.0.2.1", forwarded_for: str = ""
) -> bool:
    request = make_request(sender=sender, **{"X-Forwarded-For": forwarded_for})
    request._request.META["REMOTE_ADDR"] = address
    try:
        check_rate(request, now=now)
    except Throttled:
        return False
    return True


def test_a_key_has_its_number_of_requests_a_minute() -> None:
    assert [passes(Someone()) for _ in range(5)] == [True, True, True, False, False]
    assert passes(Someone("key:2", 2))
    assert passes(Someone(), now=MINUTE + 60)


def test_whoever_shows_no_key_is_counted_by_the_address() -> None:
    assert [passes() for _ in range(3)] == [True, True, False]
    assert passes(address="192.0.2.2")
    assert not passes(Someone("demo", None))


def test_a_header_of_the_clients_own_makes_no_other_address(limits: Settings) -> None:
    assert [passes(forwarded_for=f"198.51.100.{n}") for n in range(3)] == [True, True, False]


def test_the_refusal_says_when_to_come_again() -> None:
    for _ in range(3):
        check_rate(make_request(sender=Someone()), now=MINUTE + 45.5)
    with pytest.raises(Throttled) as caught:
        check_rate(make_request(sender=Someone()), now=MINUTE + 45.5)
    assert caught.value.wait == 15  # type: ignore[attr-defined]


def test_buckets_do_not_stay_for_ever() -> None:
    passes(Someone())
    counter = counter_at(configured.REDIS_URL)
    names = list(counter._redis.scan_iter("gpufleet:rate:*"))
    assert [0 < counter._redis.ttl(name) <= 60 for name in names] == [True]


def test_without_redis_nobody_is_limited_and_nobody_waits(limits: Settings) -> None:
    limits.REDIS_URL = "unix:///nowhere/valkey.sock?db=0"
    started = time.perf_counter()
    assert all(passes(Someone()) for _ in range(50))
    assert time.perf_counter() - started < 0.5


def test_a_redis_that_hangs_is_left_alone_after_one_short_wait(limits: Settings, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        limits.REDIS_URL = f"unix://{path}?db=0"
        started = time.perf_counter()
        assert all(passes(Someone()) for _ in range(50))
        assert time.perf_counter() - started < 1


def test_redis_is_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(throttling, "LEFT_ALONE_S", 0.05)
    counter = Counter(configured.REDIS_URL)
    reachable, counter._redis = counter._redis, Counter(f"unix://{tmp_path}/none")._redis
    assert counter.count("b", window=1) == 0
    counter._redis = reachable
    assert counter.count("b", window=1) == 0
    time.sleep(0.06)
    assert counter.count("b", window=1) == 1
