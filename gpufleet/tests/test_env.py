import os
import re
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from gpufleet.env import celery_url, pairs, percent, share, whole

# Where the web keeps its files and connections is the image's affair, and debugging is for no container.
OF_NO_CONTAINER = {"STATICFILES_STORAGE", "CONN_MAX_AGE", "DEBUG", "PROMETHEUS_MULTIPROC_DIR"}


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


@pytest.mark.parametrize(("text", "read"), [("", 14), (" 30 ", 30), ("1", 1), ("+2", 2), ("100", 100)])
def test_a_whole_number_is_read(monkeypatch: pytest.MonkeyPatch, text: str, read: int) -> None:
    monkeypatch.setenv("METRICS_RAW_DAYS", text)
    assert whole("METRICS_RAW_DAYS", default=14, most=100) == read


@pytest.mark.parametrize("text", ["0", "-1", "101", "14d", "1.5", "1e3", "1_000", "\u0663", "9" * 5000])
def test_what_is_no_such_number_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METRICS_RAW_DAYS", text)
    with pytest.raises(ImproperlyConfigured, match="METRICS_RAW_DAYS is a whole number from 1 to 100"):
        whole("METRICS_RAW_DAYS", default=14, most=100)


@pytest.mark.parametrize(("text", "read"), [("", 0.1), ("0", 0.0), ("1", 1.0), (" .25 ", 0.25)])
def test_a_share_is_read(monkeypatch: pytest.MonkeyPatch, text: str, read: float) -> None:
    monkeypatch.setenv("SHARE", text)
    assert share("SHARE", default="0.1") == read


@pytest.mark.parametrize("text", ["10", "10%", "-0.1", "nan", "inf"])
def test_what_is_no_share_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SHARE", text)
    with pytest.raises(ImproperlyConfigured, match="SHARE is a number from 0 to 1"):
        share("SHARE", default="0.1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("METRICS_RAW_DAYS", "0"),
        ("METRICS_ROLLUP_DAYS", "13"),
        ("GPU_HOT_AFTER_SECONDS", "0"),
        ("NODE_SILENT_AFTER_SECONDS", "soon"),
        ("QUARANTINE_MAX_SHARE", "10"),
    ],
)
def test_a_bad_setting_stops_the_start(name: str, text: str) -> None:
    """What would drop samples, or take GPUs away, by a slip of the pen."""
    code = "import gpufleet.settings"
    env = {**os.environ, name: text}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert f"ImproperlyConfigured: {name} is a" in ended.stderr


def test_every_variable_of_the_example_reaches_the_containers() -> None:
    example = (settings.BASE_DIR / ".env.example").read_text()
    named = set(re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE))
    compose = (settings.BASE_DIR / "docker-compose.yml").read_text()
    passed = set(re.findall(r"^    ([A-Z_]+): ", compose, re.MULTILINE))
    assert named - passed <= OF_NO_CONTAINER
