"""The simulated fleet against the real API, over HTTP."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from apikeys.models import ApiKey
from apikeys.services import issue_key, revoke_key
from clusters.models import GPU, Cluster, LatestReading, MetricSample, Node
from clusters.services import create_cluster, retire_gpu
from dashboard.demo.catalog import A10, A100, CUSTOMERS, H100, L40S, DemoCluster
from dashboard.demo.client import Api, Refused
from dashboard.demo.keys import ClusterAccess, DemoKeys, write_keys
from dashboard.demo.live import LiveFleet
from jobs.models import Job, JobEvent, JobStatus
from jobs.scheduler import run_cycle
from jobs.services import submit_job
from tenants.services import create_tenant

pytestmark = pytest.mark.django_db(transaction=True)

EAST = DemoCluster("fra-1", "eu", "10.0.1", ((H100, 2), (A100, 2), (L40S, 2)))
WEST = DemoCluster("iad-2", "us", "10.0.2", ((A10, 1),))


@pytest.fixture
def keys() -> DemoKeys:
    """Two clusters, the customers, and the keys that ``seed_demo`` would have written."""
    now = timezone.now()
    made = [(one.name, create_cluster(name=one.name, actor="test", now=now)) for one in (EAST, WEST)]
    for customer in CUSTOMERS:
        create_tenant(name=customer.name, gpu_quota=customer.gpu_quota, now=now)
    jobs_key = issue_key(label="customers", permissions=["read", "write"], created_by="test", now=now).raw
    return DemoKeys(tuple(ClusterAccess(one.cluster.pk, name, one.api_key) for name, one in made), jobs_key)


@pytest.fixture
def api(live_server: Any) -> Iterator[Api]:
    api = Api(live_server.url, stop=threading.Event())
    yield api
    api.close()


def start(api: Api, keys: DemoKeys, **fields: Any) -> LiveFleet:
    fleet = LiveFleet(api, keys, (EAST, WEST), seed=3, now=fields.pop("now", timezone.now()))
    fleet.simulation.hot.every = fleet.simulation.silent.every = timedelta(days=10_000)
    return fleet


def test_it_registers_every_node_and_gpu_and_doing_it_again_changes_nothing(api: Api, keys: DemoKeys) -> None:
    start(api, keys)
    rows = list(GPU.objects.order_by("pk").values_list("pk", "uuid", "model", "node__hostname"))
    assert len(rows) == 56
    assert Node.objects.count() == 7
    assert (rows[0][2], rows[0][3]) == (H100.name, "fra-h100-01")
    start(api, keys)
    assert list(GPU.objects.order_by("pk").values_list("pk", "uuid", "model", "node__hostname")) == rows


def test_it_beats_and_reports_every_gpu(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    before = dict(Node.objects.values_list("hostname", "last_heartbeat_at"))
    for seconds in (10, 20):
        wait = fleet.step(now + timedelta(seconds=seconds))
        assert 0 <= wait <= 10
    # The partitions are tables of their own, which keep what earlier tests of this file have committed.
    samples = MetricSample.objects.filter(gpu_id__in=GPU.objects.values("pk"), recorded_at__gt=now)
    assert samples.count() == 2 * 56
    readings = LatestReading.objects.all()
    assert len(readings) == 56
    assert all(reading.utilization_pct is not None and reading.utilization_pct <= 3 for reading in readings)
    after = dict(Node.objects.values_list("hostname", "last_heartbeat_at"))
    assert all(after[hostname] > before[hostname] for hostname in before)


def test_a_silent_node_is_not_heard_of(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    fleet.simulation.silent.until["fra-l40s-01"] = now + timedelta(hours=1)
    before = Node.objects.get(hostname="fra-l40s-01").last_heartbeat_at
    fleet.step(now + timedelta(seconds=20))
    assert Node.objects.get(hostname="fra-l40s-01").last_heartbeat_at == before
    assert LatestReading.objects.count() == 48


def test_customers_submit_through_the_api_and_the_gpus_of_running_jobs_get_busy(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    fleet.step(now)
    jobs = Job.objects.filter(status=JobStatus.QUEUED)
    assert jobs.exists()
    assert all(job.tenant and job.submitted_by.endswith(".example") for job in jobs)
    assert set(JobEvent.objects.values_list("actor", flat=True)) == {f"key:{_key_id()}"}
    run_cycle(now=timezone.now())
    for seconds in range(10, 130, 10):
        fleet.step(now + timedelta(seconds=seconds))
    busy = LatestReading.objects.filter(gpu__allocations__during__upper_inf=True)
    idle = LatestReading.objects.exclude(gpu__allocations__during__upper_inf=True)
    assert busy.count() > 8
    assert min(reading.utilization_pct or 0 for reading in busy) > 15
    assert max(reading.utilization_pct or 0 for reading in idle) <= 3


def _key_id() -> int:
    return ApiKey.objects.get(label="customers").pk


def test_jobs_end_when_their_time_has_come_and_free_their_gpus(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    fleet.step(now)
    run_cycle(now=timezone.now())
    fleet.step(now + timedelta(seconds=10))
    running = set(Job.objects.filter(status=JobStatus.RUNNING).values_list("pk", flat=True))
    assert running
    fleet.step(now + timedelta(minutes=21))
    ended = Job.objects.filter(pk__in=running)
    assert {job.status for job in ended} <= {JobStatus.COMPLETED, JobStatus.FAILED}
    assert not GPU.objects.filter(allocations__job__in=running, allocations__during__upper_inf=True).exists()


def test_a_restart_adopts_what_runs_and_ends_nothing_at_once(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    fleet.step(now)
    run_cycle(now=timezone.now())
    fleet.step(now + timedelta(seconds=10))
    running = set(Job.objects.filter(status=JobStatus.RUNNING).values_list("pk", flat=True))
    second = start(api, keys, now=now + timedelta(seconds=30))
    second.step(now + timedelta(seconds=30))
    assert second.simulation.endings == fleet.simulation.endings
    assert second.simulation.endings.keys() == running
    assert set(Job.objects.filter(status=JobStatus.RUNNING).values_list("pk", flat=True)) == running


def test_a_job_that_a_person_submitted_is_left_alone(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    cluster = Cluster.objects.get(name="iad-2")
    mine = submit_job(cluster_id=cluster.pk, name="by hand", actor="key:1", now=now)
    run_cycle(now=timezone.now())
    fleet.step(now + timedelta(seconds=10))
    fleet.step(now + timedelta(hours=3))
    mine.refresh_from_db()
    assert mine.status == JobStatus.RUNNING
    assert fleet.busy[mine.allocations.get().gpu_id] == mine.pk


def test_a_job_that_somebody_else_ended_is_no_trouble(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    with pytest.raises(Refused):
        fleet._patch_job(10**9, {"status": "completed"})
    fleet._try(lambda: fleet._patch_job(10**9, {"status": "completed"}))


def test_a_cluster_whose_key_is_refused_stays_out_and_the_other_goes_on(api: Api, keys: DemoKeys) -> None:
    revoke_key(key_id=Cluster.objects.get(name="iad-2").key_id, now=timezone.now())
    fleet = start(api, keys)
    assert list(fleet.access) == ["fra-1"]
    assert Node.objects.count() == 6


def test_a_key_that_is_revoked_on_the_way_is_not_tried_again_at_once(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    revoke_key(key_id=Cluster.objects.get(name="iad-2").key_id, now=timezone.now())
    fleet.step(now + timedelta(seconds=20))
    assert fleet.refused_until.keys() == {"iad-2"}
    assert LatestReading.objects.count() == 48


def test_a_card_that_is_retired_is_pulled_out_and_the_others_go_on(api: Api, keys: DemoKeys) -> None:
    now = timezone.now()
    fleet = start(api, keys, now=now)
    gone = GPU.objects.filter(node__cluster__name="fra-1").order_by("pk")[3]
    retire_gpu(gpu_id=gone.pk, reason="sent back", actor="test", now=now)
    fleet.step(now + timedelta(seconds=20))
    assert fleet.refused_until == {}
    assert LatestReading.objects.count() == 55
    assert not LatestReading.objects.filter(gpu=gone).exists()


def test_where_every_door_is_closed_it_says_so(api: Api, keys: DemoKeys) -> None:
    for cluster in Cluster.objects.all():
        revoke_key(key_id=cluster.key_id, now=timezone.now())
    with pytest.raises(Refused, match="no cluster"):
        start(api, keys)


class Process:
    """``manage.py simulate_fleet`` on its own."""

    def __init__(self, server: str, state: Path) -> None:
        command = [sys.executable, "manage.py", "simulate_fleet", "--server", server, "--state", str(state)]
        self.process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env={**os.environ, "DATABASE_URL": "postgres://nobody@127.0.0.1:9/none"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> tuple[int, str]:
        """SIGTERM, then its exit code and what it said."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def test_the_process_works_without_a_database_and_ends_cleanly(
    live_server: Any, keys: DemoKeys, tmp_path: Path
) -> None:
    write_keys(tmp_path, keys)
    process = Process(live_server.url, tmp_path)
    try:
        wait_until(lambda: LatestReading.objects.count() == 256)
        wait_until(lambda: Job.objects.exists())
    finally:
        code, output = process.stop()
    assert code == 0, output
    assert output.rstrip().endswith("the simulated fleet has stopped")


def test_the_process_waits_for_a_server_that_is_away_and_still_ends_when_told(keys: DemoKeys, tmp_path: Path) -> None:
    write_keys(tmp_path, keys)
    process = Process("http://127.0.0.1:9", tmp_path)
    assert process.process.stdout is not None
    assert "the server does not answer" in process.process.stdout.readline()
    assert process.process.poll() is None
    code, _ = process.stop()
    assert code == 0


def test_the_process_waits_where_there_is_no_demo(tmp_path: Path) -> None:
    process = Process("http://127.0.0.1:9", tmp_path)
    assert process.process.stdout is not None
    assert "there is no demo here" in process.process.stdout.readline()
    code, _ = process.stop()
    assert code == 0
