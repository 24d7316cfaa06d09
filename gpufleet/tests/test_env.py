import pytest
from django.core.exceptions import ImproperlyConfigured

from gpufleet.env import celery_url, pairs, percent


@pytest.mark.parametrize(
    ("redis_url", "expected"),
    [
        ("redis://localhost:6379/2", "redis://localhost:6379/2"),
        ("rediss://:secret@cache:6380/0", "rediss://:secret@cache:6380/0"),
        ("unix:///run/valkey.sock?db=3", "redis+socket:///run/valkey.sock?virtual_host=3"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
    ],
)
def test_celery_url_is_the_form_kombu_takes(redis_url: str, expected: str) -> None:
    assert celery_url(redis_url) == expected


@pytest.mark.parametrize(("text", "read"), [("", "0"), (" 7.5 ", "7.5"), ("100", "100")])
def test_a_percentage_is_read_as_it_was_written(monkeypatch: pytest.MonkeyPatch, text: str, read: str) -> None:
    monkeypatch.setenv("TAX_PERCENT", text)
    assert percent("TAX_PERCENT", default="0") == read


@pytest.mark.parametrize("text", ["19 %", "-1", "101", "NaN", "Infinity", "x"])
def test_what_is_no_percentage_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TAX_PERCENT", text)
    with pytest.raises(ImproperlyConfigured, match="TAX_PERCENT is a number from 0 to 100"):
        percent("TAX_PERCENT", default="0")


def test_pairs_say_what_theirs_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRS", "operator:gpu-ops, operator:urn:sre,viewer:board")
    assert pairs("PAIRS", "a:b") == {"gpu-ops": "operator", "urn:sre": "operator", "board": "viewer"}
    monkeypatch.setenv("PAIRS", "")
    assert pairs("PAIRS", "a:b") == {"b": "a"}


@pytest.mark.parametrize("text", ["operator", "operator:", ":gpu-ops", "a:b,,c:d"])
def test_pairs_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PAIRS", text)
    with pytest.raises(ImproperlyConfigured, match="PAIRS is pairs such as"):
        pairs("PAIRS", "a:b")
