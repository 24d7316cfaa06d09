import gzip
import json
from datetime import timedelta
from typing import Any

import cramjam
import pytest
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from clusters import queries
from clusters.models import GPU, MetricSample
from clusters.tests.clients import client_of_new_cluster, problems
from clusters.tests.factories import NOW, hold, make_gpu, make_node, store_sample
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

PATH = "/api/clusters/metrics"
MINUTE = timedelta(minutes=1)


def store(gpu: GPU, *times: Any, **figures: Any) -> None:
    for at in times:
        store_sample(gpu, at, **figures)


def stamp(at: Any) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def test_a_batch(noon: Any) -> None:
    cluster, agent = client_of_new_cluster()
    gpus = [make_gpu(make_node(cluster)) for _ in range(2)]
    answer = agent.post(PATH, {"metrics": [{"gpu_id": gpu.pk, "utilization_pct": 50} for gpu in gpus]})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    assert list(MetricSample.objects.values_list("recorded_at", "utilization_pct")) == [(NOW, 50.0)] * 2


def test_one_bad_sample_refuses_all(charlie: APIClient) -> None:
    gpu = make_gpu()
    metrics = [{"gpu_id": gpu.pk}, {"gpu_id": gpu.pk, "utilization_pct": 100.5}]
    assert problems(charlie.post(PATH, {"metrics": metrics})) == [("#/metrics/1/utilization_pct", "max_value")]
    assert not MetricSample.objects.exists()


def test_a_foreign_gpu_is_as_unknown_as_a_missing_one(noon: Any) -> None:
    _, agent = client_of_new_cluster()
    foreign = make_gpu().pk
    answer = agent.post(PATH, {"metrics": [{"gpu_id": foreign}, {"gpu_id": foreign + 1}]})
    assert problems(answer) == [("#/metrics/0/gpu_id", "does_not_exist"), ("#/metrics/1/gpu_id", "does_not_exist")]
    details = [error["detail"].replace(str(foreign + 1), str(foreign)) for error in answer.json()["errors"]]
    assert details[0] == details[1]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_json_has_not_is_named_by_its_index(charlie: APIClient, number: bytes) -> None:
    sample = b'{"gpu_id": 1, "power_draw_w": %s}'
    body = b'{"metrics": [%s, %s]}' % (sample % b"1", sample % number)
    response = charlie.post(PATH, body, content_type="application/json")
    assert response.status_code == 400
    assert "#/metrics/1/power_draw_w" in response.json()["detail"]


@pytest.mark.parametrize("body", [b'{"metrics": [{"gpu_id": 1, "power_draw_w": NaN}]}', b"{", b"", b"[1e999]"])
def test_what_is_no_json_is_a_400(charlie: APIClient, body: bytes) -> None:
    assert charlie.post(PATH, body, content_type="application/json").status_code == 400


def test_the_largest_batch_fits(charlie: APIClient) -> None:
    gpu = make_gpu()
    metrics = [
        {
            "gpu_id": gpu.pk,
            "utilization_pct": 93.75,
            "memory_used_mb": 40_960,
            "memory_total_mb": 81_559,
            "temperature_c": 61.5,
            "power_draw_w": 512.25,
            "xid": 0,
            "recorded_at": (NOW - timedelta(seconds=second)).isoformat(),
        }
        for second in range(5_000)
    ]
    assert charlie.post(PATH, {"metrics": metrics}).json() == {"accepted": 5_000}


def test_a_repeated_batch_under_one_key_is_stored_once(charlie: APIClient) -> None:
    body = {"metrics": [{"gpu_id": make_gpu().pk}]}
    answers = [charlie.post(PATH, body, HTTP_IDEMPOTENCY_KEY="batch-1") for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"accepted": 1}] * 2
    assert MetricSample.objects.count() == 1


@pytest.mark.parametrize(
    "pack", [gzip.compress, cramjam.zstd.compress, lambda body: gzip.compress(b"") + gzip.compress(body)]
)
def test_a_packed_body(charlie: APIClient, pack: Any) -> None:
    body = json.dumps({"metrics": [{"gpu_id": make_gpu().pk}]}).encode()
    encoding = "zstd" if pack is cramjam.zstd.compress else "gzip"
    answer = post_bytes(charlie, bytes(pack(body)), encoding)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    cut = post_bytes(charlie, bytes(pack(body))[:-3], encoding)
    assert cut.status_code == 400
    assert MetricSample.objects.count() == 1


def post_bytes(client: APIClient, body: bytes, encoding: str, **headers: Any) -> Any:
    return client.post(PATH, body, content_type="application/json", HTTP_CONTENT_ENCODING=encoding, **headers)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", cramjam.zstd.compress)])
def test_what_unpacks_to_too_much_is_a_413(charlie: APIClient, encoding: str, pack: Any) -> None:
    small, bomb = b" " * (4 * 1024 * 1024), b" " * (4 * 1024 * 1024 + 1)
    assert post_bytes(charlie, bytes(pack(small)), encoding).status_code == 400
    answer = post_bytes(charlie, bytes(pack(bomb)), encoding)
    assert (answer.status_code, answer.json()["max_bytes"]) == (413, 4 * 1024 * 1024)
    assert post_bytes(charlie, bytes(pack(bomb * 20)), encoding).status_code == 413


def test_other_encodings_are_a_415(charlie: APIClient) -> None:
    for encoding in ("br", "gzip, gzip", "deflate"):
        assert post_bytes(charlie, b"{}", encoding).status_code == 415


def test_more_than_five_thousand_samples_are_a_413(charlie: APIClient) -> None:
    answer = charlie.post(PATH, {"metrics": [{"gpu_id": 1}] * 5001})
    assert (answer.status_code, answer.json()["max_samples"]) == (413, 5000)


def test_a_key_that_comes_again_with_other_bytes(charlie: APIClient) -> None:
    gpu = make_gpu()
    body = json.dumps({"metrics": [{"gpu_id": gpu.pk, "recorded_at": stamp(NOW)}]}).encode()
    first = post_bytes(charlie, body, "identity", HTTP_IDEMPOTENCY_KEY="one")
    again = post_bytes(charlie, gzip.compress(body), "gzip", HTTP_IDEMPOTENCY_KEY="one")
    other = post_bytes(charlie, body + b" ", "identity", HTTP_IDEMPOTENCY_KEY="one")
    assert [first.status_code, again.status_code, other.status_code] == [202, 202, 422]
    assert again["Idempotent-Replayed"] == "true"
    assert MetricSample.objects.count() == 1


def test_tenants_and_readers_post_nothing(noon: Any) -> None:
    acme = alice()
    gpu = make_gpu()
    hold(gpu, acme)
    for client in (client_with(make_key(acme)), client_with(make_key(permissions=["read"]))):
        assert client.post(PATH, {"metrics": [{"gpu_id": gpu.pk}]}).status_code == 403


def window(client: APIClient, gpu: GPU, **params: str) -> Any:
    answer = client.get(f"/api/clusters/gpus/{gpu.pk}/metrics", params)
    assert answer.status_code == 200, answer.content
    return json.loads(answer.getvalue())


def test_the_last_hour_unless_told_otherwise(charlie: APIClient) -> None:
    gpu, other = make_gpu(), make_gpu()
    store(gpu, NOW - 61 * MINUTE, NOW - 60 * MINUTE, NOW - MINUTE, NOW, utilization_pct=40.0, xid=13)
    store(other, NOW - MINUTE)
    shown = window(charlie, gpu)
    figures = {"memory_used_mb": None, "memory_total_mb": None, "temperature_c": None, "power_draw_w": None}
    assert shown == {
        "gpu_id": gpu.pk,
        "from": "2026-11-23T11:00:00.000000Z",
        "to": "2026-11-23T12:00:00.000000Z",
        "step": "raw",
        "points": [
            {"recorded_at": f"2026-11-23T11:{minute}:00.000000Z", "utilization_pct": 40.0, "xid": 13, **figures}
            for minute in ("00", "59")
        ],
    }


@pytest.mark.parametrize(("step", "span"), [("5m", 1), ("1h", 7), ("1d", 30)])
def test_the_default_window_of_a_step(charlie: APIClient, step: str, span: int) -> None:
    assert window(charlie, make_gpu(), step=step)["from"] == f"{NOW - timedelta(days=span):%Y-%m-%dT%H:%M:%S.000000Z}"


def test_a_window_is_half_open(charlie: APIClient) -> None:
    gpu = make_gpu()
    store(gpu, NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW - MINUTE)
    points = window(charlie, gpu, **{"from": stamp(NOW - 3 * MINUTE), "to": stamp(NOW - MINUTE)})["points"]
    assert [point["recorded_at"] for point in points] == [
        "2026-11-23T11:57:00.000000Z",
        "2026-11-23T11:58:00.000000Z",
    ]


def test_a_sample_that_was_stored_twice_counts_once(charlie: APIClient) -> None:
    gpu = make_gpu()
    store(gpu, *[NOW - 2 * MINUTE] * 3, utilization_pct=90.0)
    store(gpu, NOW - MINUTE, utilization_pct=30.0)
    assert len(window(charlie, gpu)["points"]) == 2
    (bucket,) = window(charlie, gpu, step="1h")["points"]
    assert (bucket["samples"], bucket["utilization_pct"]) == (2, spread(30.0, 60.0, 90.0, 30.0, 2))


def spread(least: float, average: float, greatest: float, last: float, count: int) -> dict[str, float]:
    return {"count": count, "avg": average, "min": least, "max": greatest, "last": last}


def test_buckets(charlie: APIClient) -> None:
    gpu = make_gpu()
    store(gpu, NOW - 9 * MINUTE, utilization_pct=10.0, memory_used_mb=100, temperature_c=50.0, power_draw_w=300.0)
    store(gpu, NOW - 6 * MINUTE, utilization_pct=20.0, memory_used_mb=300, temperature_c=70.0)
    store(gpu, NOW - 5 * MINUTE, memory_total_mb=81_559)
    points = window(charlie, gpu, step="5m")["points"]
    nothing = {"count": 0, **dict.fromkeys(("avg", "min", "max", "last"))}
    assert points == [
        {
            "start": "2026-11-23T11:50:00.000000Z",
            "samples": 2,
            "utilization_pct": spread(10.0, 15.0, 20.0, 20.0, 2),
            "memory_used_mb": spread(100.0, 200.0, 300.0, 300.0, 2),
            "memory_total_mb": nothing,
            "temperature_c": spread(50.0, 60.0, 70.0, 70.0, 2),
            "power_draw_w": spread(300.0, 300.0, 300.0, 300.0, 1),
        },
        {
            "start": "2026-11-23T11:55:00.000000Z",
            "samples": 1,
            "utilization_pct": nothing,
            "memory_used_mb": nothing,
            "memory_total_mb": spread(81_559.0, 81_559.0, 81_559.0, 81_559.0, 1),
            "temperature_c": nothing,
            "power_draw_w": nothing,
        },
    ]


def test_a_day_begins_at_midnight_utc(charlie: APIClient) -> None:
    gpu = make_gpu()
    store(gpu, NOW - timedelta(hours=13), NOW - timedelta(hours=12))
    starts = [point["start"] for point in window(charlie, gpu, step="1d")["points"]]
    assert starts == ["2026-11-22T00:00:00.000000Z", "2026-11-23T00:00:00.000000Z"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"from": "yesterday"}, ("?from", "invalid_time")),
        ({"to": "2026-11-23T12:00:00"}, ("?to", "invalid_time")),
        ({"step": "2m"}, ("?step", "invalid_choice")),
        ({"from": stamp(NOW)}, ("?from", "empty_window")),
        ({"from": stamp(NOW), "to": stamp(NOW - MINUTE)}, ("?from", "empty_window")),
        ({"from": "2026-01-01T00:00:00Z", "step": "5m"}, ("?from", "too_many_points")),
        ({"to": "0001-01-01T00:30:00Z"}, ("?to", "invalid_time")),
        ({"limit": "5"}, ("?limit", "unknown_parameter")),
    ],
)
def test_bad_windows(charlie: APIClient, params: dict[str, str], expected: Any) -> None:
    answer = charlie.get(f"/api/clusters/gpus/{make_gpu().pk}/metrics", params)
    assert problems(answer) == [expected]


def test_too_many_raw_samples_are_told_and_not_cut(charlie: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_POINTS", 3)
    gpu = make_gpu()
    times = [NOW - minute * MINUTE for minute in range(1, 4)]
    store(gpu, *times, *times)
    assert len(window(charlie, gpu)["points"]) == 3
    store(gpu, NOW - 4 * MINUTE)
    answer = charlie.get(f"/api/clusters/gpus/{gpu.pk}/metrics")
    assert problems(answer) == [("?from", "too_many_points")]


def test_a_tenants_window_begins_with_its_allocation(charlie: APIClient) -> None:
    acme = alice()
    gpu = make_gpu()
    store(gpu, NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW - MINUTE, utilization_pct=50.0)
    hold(gpu, acme, since=NOW - 2 * MINUTE)
    tenant = client_with(make_key(acme))
    assert len(window(charlie, gpu)["points"]) == 3
    shown = window(tenant, gpu)
    assert shown["from"] == "2026-11-23T11:58:00.000000Z"
    assert len(shown["points"]) == 2
    (bucket,) = window(tenant, gpu, step="1d")["points"]
    assert bucket["samples"] == 2
    before = window(tenant, gpu, **{"from": stamp(NOW - 9 * MINUTE), "to": stamp(NOW - 3 * MINUTE)})
    assert before["points"] == []
