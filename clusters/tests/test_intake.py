"""The door for metric batches: the same answers as Django's, from many threads and one transaction."""

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import cramjam
import pytest
from django.conf import LazySettings
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.utils import timezone

from apikeys.models import ApiKey
from apikeys.services import revoke_key
from apikeys.tests.factories import make_key
from clusters import groups
from clusters.intake import PATH, Intake
from clusters.models import GPU, LatestReading, MetricSample, Node
from clusters.tests.factories import NOW, make_cluster_and_key, make_gpu, make_node
from gpufleet.common.locks import lock_name
from gpufleet.common.models import IdempotentResponse
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db(transaction=True)


ORDINARY = {"CONTENT_TYPE": "application/json; charset=utf-8"}  # What the door leaves to Django.


class Door:
    """The door with Django behind it, which counts what comes to it."""

    def __init__(self) -> None:
        self.handed_on = 0
        self._django = get_wsgi_application()
        self.intake = Intake(self._counted)

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.handed_on += 1
        return self._django(environ, start_response)

    def post(self, body: Any, raw_key: str, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": PATH,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "HTTP_HOST": "localhost",
            "wsgi.url_scheme": "http",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(raw)),
            "HTTP_AUTHORIZATION": f"Bearer {raw_key}",
            "wsgi.input": io.BytesIO(raw),
            **headers,
        }
        told: list[Any] = []
        answer = b"".join(self.intake(environ, lambda *given: told.extend(given)))
        connection.close()
        return int(told[0].split()[0]), json.loads(answer), dict(told[1])


@pytest.fixture
def door() -> Iterator[Door]:
    with connection.cursor() as cursor:  # No model's table, so that no test's end empties it.
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate")
    found = Door()
    yield found
    found.intake.close()


@pytest.fixture
def raw_key() -> str:
    raw = make_key().raw
    ApiKey.objects.update(last_used_at=timezone.now())
    return raw


def one(gpu: GPU, **figures: Any) -> dict[str, Any]:
    return {"gpu_id": gpu.pk, "recorded_at": timezone.now().isoformat(), **figures}


def test_a_plain_batch_does_not_come_to_django(door: Door, raw_key: str) -> None:
    gpus = [make_gpu(make_node()) for _ in range(3)]
    metrics = [one(gpu, utilization_pct=50.5, memory_used_mb=7, power_draw_w=512.25) for gpu in gpus]
    status, answer, headers = door.post({"metrics": metrics}, raw_key)
    assert (status, answer, door.handed_on) == (202, {"accepted": 3}, 0)
    assert len(headers["X-Request-Id"]) == 32
    figures = MetricSample.objects.values_list("gpu_id", "utilization_pct", "memory_used_mb", "power_draw_w", "xid")
    assert set(figures) == {(gpu.pk, 50.5, 7, 512.25, None) for gpu in gpus}


def test_the_answer_is_djangos(door: Door, raw_key: str) -> None:
    gpu = make_gpu()
    _, plain, ours = door.post({"metrics": [one(gpu)]}, raw_key)
    _, through_django, theirs = door.post({"metrics": [one(gpu)]}, raw_key, **ORDINARY)
    assert door.handed_on == 1
    assert plain == through_django
    assert {name: value for name, value in ours.items() if name != "X-Request-Id"} == {
        name: value for name, value in theirs.items() if name != "X-Request-Id"
    }


def test_a_packed_batch(door: Door, raw_key: str) -> None:
    body = bytes(cramjam.zstd.compress(json.dumps({"metrics": [one(make_gpu())]}, separators=(",", ":")).encode()))
    assert door.post(body, raw_key, HTTP_CONTENT_ENCODING="zstd")[0] == 202
    assert door.handed_on == 0


def test_what_follows_is_written_within_the_second(door: Door, raw_key: str) -> None:
    gpus = [make_gpu(node) for node in (make_node(), make_node()) for _ in range(2)]
    older = (timezone.now() - timedelta(seconds=5)).isoformat()
    door.post({"metrics": [one(gpu, utilization_pct=90) for gpu in gpus]}, raw_key)
    door.post({"metrics": [{**one(gpu, utilization_pct=10), "recorded_at": older} for gpu in gpus]}, raw_key)
    door.intake.writer.flush_news(now=timezone.now())
    assert set(LatestReading.objects.values_list("utilization_pct", flat=True)) == {90}
    assert LatestReading.objects.count() == 4
    newest = MetricSample.objects.order_by("-recorded_at").first()
    assert newest is not None
    assert max(Node.objects.values_list("last_heartbeat_at", flat=True)) == newest.recorded_at


def test_an_older_frame_does_not_take_the_place_of_a_newer_one_before_they_are_news(door: Door, raw_key: str) -> None:
    gpu, now = make_gpu(), timezone.now()
    for figure, age in ((50, 2), (90, 1), (10, 3)):
        sample = {**one(gpu, utilization_pct=figure), "recorded_at": (now - timedelta(seconds=age)).isoformat()}
        assert door.post({"metrics": [sample]}, raw_key)[0] == 202
    door.intake.writer.flush_news(now=timezone.now())
    assert LatestReading.objects.get().utilization_pct == 90


def test_gpus_of_a_node_that_are_reported_apart_each_have_their_reading(door: Door, raw_key: str) -> None:
    node = make_node()
    gpus = [make_gpu(node) for _ in range(3)]
    for gpu in gpus:
        door.post({"metrics": [one(gpu, utilization_pct=gpu.gpu_index)]}, raw_key)
    door.intake.writer.flush_news(now=timezone.now())
    assert dict(LatestReading.objects.values_list("gpu_id", "utilization_pct")) == {
        gpu.pk: gpu.gpu_index for gpu in gpus
    }


def test_news_alone_bring_a_silent_node_back(door: Door, raw_key: str) -> None:
    gpu = make_gpu(make_node(silent=True))
    door.post({"metrics": [one(gpu)]}, raw_key)
    door.intake.writer.flush_news(now=timezone.now())
    gpu.refresh_from_db()
    assert (gpu.state, gpu.node.status, door.handed_on) == ("available", "online", 0)


def test_news_bring_a_silent_node_back_and_end_a_hot_streak(door: Door, raw_key: str) -> None:
    gpu = make_gpu(make_node(silent=True))
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=95, hot_since=NOW, streak_until=NOW)
    assert gpu.state == "offline"
    door.post({"metrics": [one(gpu, temperature_c=60)]}, raw_key)
    door.intake.writer.flush_news(now=timezone.now())
    gpu.refresh_from_db()
    assert (gpu.state, gpu.node.status, LatestReading.objects.get().hot_since) == ("available", "online", None)


def test_memory_that_shrank_is_seen_within_the_second(door: Door, raw_key: str) -> None:
    gpu = make_gpu()
    for total in (81_559, 40_000):
        assert door.post({"metrics": [one(gpu, memory_total_mb=total)]}, raw_key)[0] == 202
        door.intake.writer.flush_news(now=timezone.now())
    gpu.refresh_from_db()
    assert (door.handed_on, gpu.health_cause) == (0, "memory")


def test_what_may_move_health_is_djangos(door: Door, raw_key: str) -> None:
    gpu = make_gpu()
    assert door.post({"metrics": [one(gpu, xid=79)]}, raw_key)[0] == 202
    gpu.refresh_from_db()
    assert (gpu.health, door.handed_on) == ("unhealthy", 1)
    door.post({"metrics": [one(gpu, temperature_c=90)]}, raw_key)
    assert door.handed_on == 2


def test_keys_are_judged_as_django_judges_them(door: Door) -> None:
    cluster, raw_cluster = make_cluster_and_key()
    own, foreign = make_gpu(make_node(cluster)), make_gpu()
    keys = {
        raw_cluster: (202, 400),
        make_key().raw: (202, 202),
        make_key(permissions=["read"]).raw: (403, 403),
        make_key(alice()).raw: (403, 403),
        "gfk_nonsense": (401, 401),
    }
    for noted in (None, timezone.now()):
        ApiKey.objects.update(last_used_at=noted)
        for raw, statuses in keys.items():
            answers = [door.post({"metrics": [one(gpu)]}, raw)[0] for gpu in (own, foreign)]
            assert tuple(answers) == statuses, raw


def test_a_revoked_key_is_refused_from_the_next_request_on(door: Door, raw_key: str) -> None:
    gpu = make_gpu()
    assert door.post({"metrics": [one(gpu)]}, raw_key)[0] == 202
    key = ApiKey.objects.exclude(kind="cluster").get()
    revoke_key(key_id=key.pk, now=timezone.now())
    assert door.post({"metrics": [one(gpu)]}, raw_key)[0] == 401
    assert MetricSample.objects.count() == 1


def test_a_retired_gpus_later_samples_are_refused(door: Door, raw_key: str) -> None:
    gpu = make_gpu()
    assert door.post({"metrics": [one(gpu)]}, raw_key)[0] == 202
    GPU.objects.filter(pk=gpu.pk).update(retired_at=timezone.now())
    status, answer, _ = door.post({"metrics": [one(gpu)]}, raw_key)
    assert (status, answer["errors"][0]["code"]) == (400, "gpu_retired")


def test_a_batch_sent_again_is_stored_once_whichever_way_it_came(door: Door, raw_key: str) -> None:
    body = json.dumps({"metrics": [one(make_gpu())]}, separators=(",", ":")).encode()
    ways: list[tuple[dict[str, str], dict[str, str]]] = [({}, ORDINARY), (ORDINARY, {}), ({}, {})]
    for first, second in ways:
        key = {"HTTP_IDEMPOTENCY_KEY": f"batch-{bool(first)}-{bool(second)}"}
        assert door.post(body, raw_key, **key, **first)[0] == 202
        stored = MetricSample.objects.count()
        status, answer, headers = door.post(body, raw_key, **key, **second)
        assert (status, answer, headers["Idempotent-Replayed"]) == (202, {"accepted": 1}, "true")
        assert door.post(body + b" ", raw_key, **key)[0] == 422
        assert MetricSample.objects.count() == stored


def test_many_at_once_are_one_group_and_each_is_stored_once(door: Door, raw_key: str) -> None:
    gpus = [make_gpu(make_node()) for _ in range(4)]
    at = timezone.now()
    together = threading.Barrier(12)

    def send(number: int) -> int:
        together.wait(10)
        sample = {"gpu_id": gpus[number % 4].pk, "recorded_at": (at - timedelta(seconds=number)).isoformat()}
        return door.post({"metrics": [sample]}, raw_key, HTTP_IDEMPOTENCY_KEY=f"batch-{number // 2 * 2}")[0]

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(send, range(12)))
    assert sorted(statuses) == [202] * 6 + [422] * 6
    assert MetricSample.objects.count() == 6


def test_one_bad_batch_does_not_take_its_group_with_it(door: Door, raw_key: str) -> None:
    good, unknown = make_gpu(), GPU(pk=10**9)
    with ThreadPoolExecutor(4) as pool:
        statuses = list(
            pool.map(lambda gpu: door.post({"metrics": [one(gpu)]}, raw_key)[0], [good, unknown, good, unknown])
        )
    assert statuses == [202, 400, 202, 400]


def test_a_group_that_fails_is_answered_the_ordinary_way(
    door: Door, raw_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk")

    monkeypatch.setattr(groups.GroupWriter, "_store", fail)
    assert door.post({"metrics": [one(make_gpu())]}, raw_key)[0] == 202
    assert (door.handed_on, MetricSample.objects.count()) == (1, 1)


def test_a_batch_that_breaks_the_decoder_is_answered_and_so_are_those_behind_it(
    door: Door, raw_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("memory")

    gpu = make_gpu()
    with monkeypatch.context() as broken:
        broken.setattr("clusters.intake.decode_quickly", fail)
        assert (door.post({"metrics": [one(gpu)]}, raw_key)[0], door.handed_on) == (202, 1)
    assert (door.post({"metrics": [one(gpu)]}, raw_key)[0], door.handed_on) == (202, 1)
    assert MetricSample.objects.count() == 2


def test_batches_that_come_together_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GATHERED_FOR_S", 0.5)
    for gather, expected in ((False, 1), (True, 2)):
        writer: Any = groups.GroupWriter()
        writer._waiting.put("first")
        later = threading.Timer(0.1, writer._waiting.put, ["second"])
        later.start()
        assert len(writer._next_group(gather=gather)) == expected
        later.join()


def test_news_that_take_long_rest_but_never_for_long() -> None:
    assert [groups.rest_after(took) for took in (0.0, 0.3, 9)] == [0, pytest.approx(3.0), 4.0]


def test_the_rate_limit_holds_within_a_second(door: Door, raw_key: str, settings: LazySettings) -> None:
    settings.API_RATE_PER_KEY = 3
    gpu = make_gpu()
    statuses = []
    for _ in range(6):
        statuses.append(door.post({"metrics": [one(gpu)]}, raw_key)[0])
        door.intake.writer._ask_rates(now=timezone.now())
    assert statuses[0] == 202
    assert statuses[-1] == 429


def test_what_the_last_group_saw_is_asked_again_in_each_group(door: Door) -> None:
    """A key and a GPU that one group saw alive are another group's, from one request to the next."""
    cluster, raw_key = make_cluster_and_key()
    ApiKey.objects.update(last_used_at=timezone.now())
    kept, gone = make_gpu(make_node(cluster)), make_gpu(make_node(cluster))
    key = {"HTTP_IDEMPOTENCY_KEY": "it's-a\\key"}
    for gpu in (kept, gone):
        assert door.post({"metrics": [one(gpu)]}, raw_key)[0] == 202
    GPU.objects.filter(pk=gone.pk).update(retired_at=timezone.now())
    body = json.dumps({"metrics": [one(gone)]}).encode()
    assert door.post(body, raw_key, **key)[0] == 400
    assert IdempotentResponse.objects.count() == 0  # What was refused is not remembered as accepted.
    assert door.post({"metrics": [one(kept)]}, raw_key, **key)[0] == 202
    ApiKey.objects.update(revoked_at=timezone.now())
    assert door.post({"metrics": [one(kept)]}, raw_key)[0] == 401
    ApiKey.objects.update(revoked_at=None)
    assert door.post({"metrics": [one(kept)]}, raw_key)[0] == 202
    ApiKey.objects.update(expires_at=timezone.now())
    assert door.post({"metrics": [one(kept)]}, raw_key)[0] == 401
    assert MetricSample.objects.filter(gpu_id=kept.pk).count() == 3
    assert MetricSample.objects.filter(gpu_id=gone.pk).count() == 1


@pytest.mark.parametrize("url", ["", "http://nobody.example/"])
def test_late_samples_of_a_group_mark_their_hours(door: Door, raw_key: str, settings: LazySettings, url: str) -> None:
    settings.REMOTE_WRITE_URL = url
    gpu, at = make_gpu(), timezone.now() - timedelta(hours=3)
    body = json.dumps({"metrics": [{**one(gpu), "recorded_at": at.isoformat()}]}).encode()
    for _ in range(2):
        assert door.post(body, raw_key, HTTP_IDEMPOTENCY_KEY="late")[0] == 202
    with connection.cursor() as cursor:
        cursor.execute("SELECT node_id, hour FROM clusters_metriclate")
        assert cursor.fetchall() == [(gpu.node_id, at.replace(minute=0, second=0, microsecond=0))]
        cursor.execute("DELETE FROM clusters_metricoutbox RETURNING node_id, recorded_at")
        assert cursor.fetchall() == ([(gpu.node_id, at)] if url else [])


@pytest.mark.parametrize("url", ["", "http://nobody.example/"])
def test_a_batch_that_waits_past_its_hour_marks_it(
    door: Door, raw_key: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Its hour was open when it came, and may be rolled up when it is stored."""
    settings.REMOTE_WRITE_URL = url
    gpu, name = make_gpu(), f"idempotency:key:{ApiKey.objects.exclude(kind='cluster').get().pk}:busy"
    door.post({"metrics": [one(gpu)]}, raw_key)
    now = timezone.now()
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            lock_name(name)
            sent = pool.submit(door.post, {"metrics": [one(gpu)]}, raw_key, HTTP_IDEMPOTENCY_KEY="busy")
            with pytest.raises(TimeoutError):
                sent.result(timeout=0.5)
            monkeypatch.setattr(timezone, "now", lambda: now + timedelta(hours=1))
        assert sent.result(timeout=10)[0] == 202
    assert (door.handed_on, MetricSample.objects.count()) == (0, 2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT node_id, hour FROM clusters_metriclate")
        assert cursor.fetchall() == [(gpu.node_id, now.replace(minute=0, second=0, microsecond=0))]
        cursor.execute("TRUNCATE clusters_metricoutbox")


def test_whoever_handles_the_same_key_meanwhile_is_waited_for(door: Door, raw_key: str) -> None:
    gpu, name = make_gpu(), f"idempotency:key:{ApiKey.objects.exclude(kind='cluster').get().pk}:busy"
    door.post({"metrics": [one(gpu)]}, raw_key)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            lock_name(name)
            sent = pool.submit(door.post, {"metrics": [one(gpu)]}, raw_key, HTTP_IDEMPOTENCY_KEY="busy")
            with pytest.raises(TimeoutError):
                sent.result(timeout=0.5)
        assert sent.result(timeout=10)[0] == 202
    assert MetricSample.objects.count() == 2
