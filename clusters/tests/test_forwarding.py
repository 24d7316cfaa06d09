"""Remote write against a receiver of our own that decodes it, and against VictoriaMetrics where it is installed."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from django.utils import timezone

from clusters import forwarding, tasks
from clusters.queries import next_to_forward
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node, store_sample
from clusters.tests.receivers import Receiver, decoded
from clusters.tests.threads import in_thread
from gpufleet.common.locks import try_lock_name

SECOND = timedelta(seconds=1)
MS = int(NOW.timestamp() * 1000)


def waiting() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM clusters_metricoutbox")
        return int(cursor.fetchone()[0])


@pytest.mark.django_db
def test_samples_arrive_as_the_protocol_wants_them(receiver: Receiver) -> None:
    gpu = make_gpu(make_node(make_cluster("north"), "n1"), uuid="GPU-1")
    store_sample(gpu, NOW, utilization_pct=93.5, xid=13)
    store_sample(gpu, NOW + SECOND, utilization_pct=12.25)
    tasks.forward_samples()
    labels = (("cluster", "north"), ("gpu_id", str(gpu.pk)), ("model", "H100"), ("node", "n1"), ("uuid", "GPU-1"))
    (body,) = receiver.bodies
    assert decoded(body) == {
        (("__name__", "gpufleet_gpu_utilization_pct"), *labels): [(MS, 93.5), (MS + 1000, 12.25)],
        (("__name__", "gpufleet_gpu_xid"), *labels): [(MS, 13.0)],
    }
    (headers,) = receiver.headers
    assert headers["Content-Encoding"] == "snappy"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"
    assert waiting() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "left"), [(500, 1), (503, 1), (429, 1), (400, 0), (204, 0)])
def test_what_is_not_taken_stays_and_what_never_will_be_goes(receiver: Receiver, status: int, left: int) -> None:
    store_sample(make_gpu(), utilization_pct=50)
    receiver.answers = [status]
    forwarding.forward_samples()
    assert (len(receiver.bodies), waiting()) == (1, left)
    forwarding.forward_samples()
    assert waiting() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "requests"), [(400, 3), (409, 3), (413, 3), (404, 1)])
def test_what_is_refused_for_another_reason_than_itself_is_not_cut(
    receiver: Receiver, status: int, requests: int
) -> None:
    gpu = make_gpu()
    for second in range(2):
        store_sample(gpu, NOW + second * SECOND, utilization_pct=second)
    receiver.answers = [status] * requests
    assert forwarding.forward_samples() == 2
    assert (len(receiver.bodies), waiting()) == (requests, 0)


@pytest.mark.django_db
def test_what_is_refused_is_cut_in_halves_and_what_is_not_taken_of_it_stays(receiver: Receiver) -> None:
    gpu = make_gpu()
    for second in (3, 1, 2, 0):
        store_sample(gpu, NOW + second * SECOND, utilization_pct=second)
    receiver.answers = [400, 204, 400, 400, 503]
    assert forwarding.forward_samples() == 4
    times = [[at for samples in decoded(body).values() for at, _ in samples] for body in receiver.bodies]
    seconds = [[(at - MS) // 1000 for at in request] for request in times]
    assert seconds == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [3]]
    assert waiting() == 0


@pytest.mark.django_db
def test_an_endpoint_that_is_away_loses_nothing(receiver: Receiver, settings: LazySettings) -> None:
    there, settings.REMOTE_WRITE_URL = settings.REMOTE_WRITE_URL, "http://127.0.0.1:9/api/v1/write"
    store_sample(make_gpu(), utilization_pct=50)
    assert forwarding.forward_samples() == 0
    assert next_to_forward() == NOW
    settings.REMOTE_WRITE_URL = there
    assert forwarding.forward_samples() == 1
    assert next_to_forward() is None


@pytest.mark.django_db
def test_many_frames_go_in_several_requests(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "FRAMES_A_REQUEST", 2)
    gpu = make_gpu()
    for second in range(5):
        store_sample(gpu, NOW + second * SECOND, utilization_pct=second)
    assert forwarding.forward_samples() == 5
    times = [at for body in receiver.bodies for samples in decoded(body).values() for at, _ in samples]
    assert times == [MS + 1000 * second for second in range(5)]
    assert len(receiver.bodies) == 3


@pytest.mark.django_db
def test_what_is_stored_twice_is_sent_once(receiver: Receiver) -> None:
    gpu = make_gpu()
    for _ in range(2):
        store_sample(gpu, utilization_pct=50)
    assert forwarding.forward_samples() == 2
    (body,) = receiver.bodies
    assert [*decoded(body).values()] == [[(MS, 50.0)]]


@pytest.mark.django_db
def test_without_an_endpoint_nothing_waits() -> None:
    store_sample(make_gpu(), utilization_pct=50)
    assert waiting() == 0
    assert forwarding.forward_samples() == 0


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_sends_so_that_nothing_overtakes(receiver: Receiver) -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE clusters_metricoutbox")
    store_sample(make_gpu(), utilization_pct=50)
    with transaction.atomic():
        assert try_lock_name(forwarding.LOCK)  # As the other one, whose request is under way.
        assert in_thread(forwarding.forward_samples) == 0
    assert forwarding.forward_samples() == 1
    assert len(receiver.bodies) == 1


@contextmanager
def engine(name: str, variable: str, *flags: str) -> Iterator[str]:
    """A real one of Debian's package, at an address of its own; ``{address}`` in its flags is that."""
    binary = os.environ.get(variable) or shutil.which(name)
    if binary is None:
        pytest.skip(f"{name} is not installed (Debian has a package of this name)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    told = [flag.format(address=address) for flag in flags]
    process = subprocess.Popen([binary, *told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def wait_for(true: Any) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError("it did not come true")


@pytest.mark.django_db
def test_victoria_metrics_takes_and_gives_them_back(tmp_path: Path, settings: LazySettings) -> None:
    flags = (f"-storageDataPath={tmp_path}", "-httpListenAddr={address}", "-search.latencyOffset=0s")
    with engine("victoria-metrics", "VICTORIA_METRICS", *flags) as victoria:
        wait_for(lambda: httpx.get(f"{victoria}/health").is_success)
        settings.REMOTE_WRITE_URL = f"{victoria}/api/v1/write"
        gpu, at = make_gpu(), timezone.now().replace(microsecond=0) - timedelta(minutes=1)
        for second in range(3):
            store_sample(gpu, at + second * SECOND, utilization_pct=10 * second, power_draw_w=512.25)
        assert forwarding.forward_samples() == 3

        def given_back(name: str) -> list[float]:
            match = f'{{__name__="gpufleet_gpu_{name}",gpu_id="{gpu.pk}"}}'
            lines = httpx.get(f"{victoria}/api/v1/export", params={"match[]": match}).text.splitlines()
            return [value for line in lines for value in httpx.Response(200, text=line).json()["values"]]

        wait_for(lambda: given_back("utilization_pct") == [0, 10, 20])
        assert given_back("power_draw_w") == [512.25] * 3


@pytest.fixture
def prometheus(tmp_path: Path, settings: LazySettings) -> Iterator[str]:
    """A real one that samples are forwarded to; its address."""
    tmp_path.joinpath("prometheus.yml").write_text("")
    flags = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    flags += ["--web.listen-address={address}", "--web.enable-remote-write-receiver"]
    with engine("prometheus", "PROMETHEUS", *flags) as prometheus:
        wait_for(lambda: httpx.get(f"{prometheus}/-/ready").is_success)
        settings.REMOTE_WRITE_URL = f"{prometheus}/api/v1/write"
        yield prometheus


@pytest.mark.django_db
def test_prometheus_takes_and_gives_them_back(prometheus: str) -> None:
    gpu, at = make_gpu(make_node(make_cluster("nörth"), "n1")), timezone.now().replace(microsecond=0)
    times = [at + second * SECOND for second in range(-3, 0)]
    for number, taken in enumerate(times):
        store_sample(gpu, taken, utilization_pct=10 * number, power_draw_w=512.25)
    assert forwarding.forward_samples() == 3
    query = f'gpufleet_gpu_utilization_pct{{gpu_id="{gpu.pk}",cluster="nörth"}}[1m]'
    found = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
    assert [value for one in found for value in one["values"]] == [
        [taken.timestamp(), str(10 * number)] for number, taken in enumerate(times)
    ]


@pytest.mark.django_db
def test_prometheus_refuses_a_late_sample_and_takes_what_comes_with_it(prometheus: str) -> None:
    late, others, at = make_gpu(), [make_gpu() for _ in range(4)], timezone.now().replace(microsecond=0)
    store_sample(late, at, utilization_pct=50)
    assert forwarding.forward_samples() == 1
    for gpu in (others[0], others[1], late, others[2], others[3]):
        store_sample(gpu, at - 10 * SECOND, utilization_pct=20)
    assert forwarding.forward_samples() == 5
    query = "gpufleet_gpu_utilization_pct[1m]"
    found = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
    values = {int(one["metric"]["gpu_id"]): [value for _, value in one["values"]] for one in found}
    assert values == {late.pk: ["50"], **{gpu.pk: ["20"] for gpu in others}}
    assert waiting() == 0
