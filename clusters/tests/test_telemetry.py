from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clusters.telemetry import MAX_SAMPLES, BadBatch, Sample, TooManySamples, decode, flaw_of
from clusters.tests.factories import NOW


def batch(*samples: Any) -> dict[str, Any]:
    return {"metrics": list(samples)}


def refusal(body: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadBatch) as caught:
        decode(body, now=NOW)
    return [(flaw.pointer, flaw.code) for flaw in caught.value.flaws]


def test_a_whole_sample() -> None:
    sent = {
        "gpu_id": 7,
        "utilization_pct": 93.5,
        "memory_used_mb": 40_000,
        "memory_total_mb": 81_559,
        "temperature_c": 61,
        "power_draw_w": 512.25,
        "xid": 13,
        "recorded_at": "2026-11-23T13:59:59.5+02:00",
    }
    (sample,) = decode(batch(sent), now=NOW)
    at = datetime(2026, 11, 23, 11, 59, 59, 500_000, UTC)
    assert sample == Sample(7, at, 93.5, 40_000, 81_559, 61, 512.25, 13)


def test_what_is_left_out_was_not_measured_and_is_of_now() -> None:
    (sample,) = decode(batch({"gpu_id": 7}), now=NOW)
    assert sample == Sample(7, NOW, None, None, None, None, None, None)


def test_memory_is_stored_in_whole_megabytes() -> None:
    (sample,) = decode(batch({"gpu_id": 7, "memory_used_mb": 1023.6}), now=NOW)
    assert sample.memory_used_mb == 1024


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("utilization_pct", -0.1, "min_value"),
        ("utilization_pct", 100.1, "max_value"),
        ("utilization_pct", "50", "invalid"),
        ("utilization_pct", True, "invalid"),
        ("memory_used_mb", -1, "min_value"),
        ("memory_total_mb", 2**31, "max_value"),
        ("temperature_c", 301, "max_value"),
        ("temperature_c", -101, "min_value"),
        ("power_draw_w", -1, "min_value"),
        ("power_draw_w", 10**400, "invalid"),
        ("xid", -1, "min_value"),
        ("xid", 2.5, "invalid"),
        ("gpu_id", 0, "min_value"),
        ("gpu_id", 2**63, "max_value"),
        ("gpu_id", None, "invalid"),
        ("recorded_at", "2026-11-23T12:00:00", "invalid_time"),
        ("recorded_at", "yesterday", "invalid_time"),
        ("recorded_at", 1_700_000_000, "invalid"),
        ("recorded_at", "0001-01-01T00:00:00+10:00", "too_old"),
        ("recorded_at", "9999-12-31T23:59:59-10:00", "in_the_future"),
        ("utilisation_pct", 50, "unknown_field"),
        ("a~/b", 50, "unknown_field"),
    ],
)
def test_one_bad_sample_refuses_the_batch_and_is_named(field: str, value: Any, code: str) -> None:
    body = batch({"gpu_id": 1}, {"gpu_id": 2}, {"gpu_id": 3, field: value})
    assert refusal(body) == [(f"#/metrics/2/{field.replace('~', '~0').replace('/', '~1')}", code)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_even_if_a_parser_let_it_through(value: float) -> None:
    (flaw,) = refusal(batch({"gpu_id": 1, "utilization_pct": value}))
    assert flaw[0] == "#/metrics/0/utilization_pct"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (None, "#", "invalid"),
        ([], "#", "invalid"),
        ({}, "#/metrics", "required"),
        ({"metrics": {}}, "#/metrics", "invalid"),
        ({"metrics": []}, "#/metrics", "length"),
        ({"metrics": [1]}, "#/metrics/0", "invalid"),
        ({"metrics": [{}]}, "#/metrics/0/gpu_id", "required"),
        ({"metrics": [{"gpu_id": 1}], "node": 1}, "#/node", "unknown_field"),
    ],
)
def test_the_shape_of_the_body(body: Any, pointer: str, code: str) -> None:
    assert refusal(body) == [(pointer, code)]


def test_a_batch_of_more_is_too_large() -> None:
    with pytest.raises(TooManySamples):
        decode({"metrics": [{"gpu_id": 1}] * (MAX_SAMPLES + 1)}, now=NOW)


def test_the_largest_batch_passes() -> None:
    assert len(decode(batch(*({"gpu_id": gpu} for gpu in range(1, MAX_SAMPLES + 1))), now=NOW)) == MAX_SAMPLES


@pytest.mark.parametrize(
    ("age", "code"),
    [
        (timedelta(hours=24), None),
        (timedelta(hours=24, microseconds=1), "too_old"),
        (timedelta(seconds=-60), None),
        (timedelta(seconds=-60, microseconds=-1), "in_the_future"),
    ],
)
def test_how_old_and_how_early_a_sample_may_be(age: timedelta, code: str | None) -> None:
    body = batch({"gpu_id": 1, "recorded_at": (NOW - age).isoformat()})
    if code is None:
        assert decode(body, now=NOW)[0].recorded_at == NOW - age
    else:
        assert refusal(body) == [("#/metrics/0/recorded_at", code)]


def test_a_gpu_has_one_sample_of_one_time() -> None:
    there, here = "2026-11-23T12:00:00Z", "2026-11-23T14:00:00+02:00"
    body = batch({"gpu_id": 1, "recorded_at": there}, {"gpu_id": 2}, {"gpu_id": 1, "recorded_at": here}, {"gpu_id": 2})
    assert refusal(body) == [("#/metrics/2", "repeated_sample"), ("#/metrics/3", "repeated_sample")]


def test_at_most_twenty_flaws_are_told() -> None:
    assert len(refusal(batch(*({"gpu_id": 1} for _ in range(100))))) == 20


def test_a_sentence_without_a_place_is_about_the_body() -> None:
    flaw = flaw_of("Something else")
    assert (flaw.pointer, flaw.code, flaw.detail) == ("#", "invalid", "Something else.")
