"""The demo's history: short ones for most questions, and once the whole."""

import json
import stat
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from apikeys.models import ApiKey
from billing.models import Invoice, Rate
from clusters.models import GPU, Cluster, GPUStatePeriod, Node
from clusters.services import create_cluster
from dashboard.demo import seeding
from dashboard.demo.history import Replay
from dashboard.demo.keys import FILE, read_keys
from jobs.models import Allocation, Job, JobStatus, KindWait
from jobs.services import doorbell
from tenants.models import Tenant

pytestmark = pytest.mark.django_db

SHORT = timedelta(days=1)


def seed(state: Path) -> str:
    out = StringIO()
    call_command("seed_demo", "--state", str(state), stdout=out)
    return out.getvalue()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of history instead of two weeks."""
    whole = seeding.seed
    monkeypatch.setattr(seeding, "seed", lambda *, now: whole(now=now, history=SHORT))


@pytest.fixture
def rings() -> Iterator[list[int]]:
    """How often the scheduler's doorbell rings."""
    heard: list[int] = []
    with doorbell.stand_in(lambda: heard.append(1)):
        yield heard


def breaches() -> list[Any]:
    """GPUs whose registered time is not what their periods add up to, and allocations outside of it."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT gpu.id FROM clusters_gpu gpu JOIN clusters_gpustateperiod p ON p.gpu_id = gpu.id
             GROUP BY gpu.id
            HAVING range_agg(p.during) <> tstzmultirange(tstzrange(gpu.registered_at, NULL))
            UNION ALL
            SELECT a.gpu_id FROM jobs_allocation a JOIN clusters_gpu gpu ON gpu.id = a.gpu_id
             WHERE NOT a.during <@ tstzrange(gpu.registered_at, NULL)
            UNION ALL
            SELECT j.id FROM jobs_job j
             WHERE (j.status = 'running')
                   <> EXISTS (SELECT 1 FROM jobs_allocation a WHERE a.job_id = j.id AND upper_inf(a.during))
            """
        )
        return list(cursor.fetchall())


def story() -> list[Any]:
    """What happened, without the ids."""
    fields = ("name", "tenant__name", "cluster__name", "status", "gpu_count", "submitted_at", "started_at", "ended_at")
    return list(Job.objects.order_by("submitted_at", "name").values_list(*fields))


@pytest.mark.slow
def test_two_weeks_of_believable_history(tmp_path: Path) -> None:
    began = timezone.now()
    assert "seeded two weeks of history" in seed(tmp_path)
    assert (Cluster.objects.count(), Node.objects.count(), GPU.objects.count()) == (2, 32, 256)
    assert GPU.objects.values("model").distinct().count() == 4
    assert Tenant.objects.values("plan_tier").distinct().count() == 4
    assert Tenant.objects.count() == 5
    assert Rate.objects.filter(tenant__isnull=False).count() == 1
    assert Rate.objects.exclude(plan_tier="").count() == 12
    assert breaches() == []
    first = GPUStatePeriod.objects.order_by("during").values_list("during", flat=True)[0].lower
    assert abs((began - first) - timedelta(days=14)) < timedelta(minutes=1)
    statuses = dict.fromkeys(Job.objects.values_list("status", flat=True))
    assert {"completed", "failed", "running"} <= statuses.keys()
    assert {"quota", "fragmented", "capacity"} <= set(KindWait.objects.values_list("code", flat=True))
    states = set(GPUStatePeriod.objects.values_list("state", flat=True))
    assert states == {"available", "draining", "maintenance", "unhealthy", "offline"}
    assert not Allocation.objects.filter(price_per_gpu_hour__isnull=True).exists()
    assert 0.6 < sold_share(first) < 0.9
    lost = Job.objects.filter(status=JobStatus.FAILED, events__reason__contains="went silent")
    assert lost.exists()
    assert sorted(Invoice.objects.values_list("status", flat=True)) == ["draft", "open", "open", "paid", "paid"]
    week = first + timedelta(days=7)
    assert all(abs(invoice.period.upper - week) < timedelta(minutes=1) for invoice in Invoice.objects.all())


def sold_share(start: Any) -> float:
    """What part of all GPU-seconds of the history was sold."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT sum(extract(epoch FROM coalesce(upper(during), now()) - lower(during)))
                   / (256 * extract(epoch FROM now() - %s)) FROM jobs_allocation
            """,
            [start],
        )
        return float(cursor.fetchone()[0])


@pytest.mark.usefixtures("short")
def test_history_ends_in_the_present_and_everything_is_in_order(tmp_path: Path) -> None:
    began = timezone.now()
    seed(tmp_path)
    assert breaches() == []
    assert Node.objects.filter(silent=False, last_heartbeat_at__gte=began).count() == 32
    assert not Job.objects.filter(submitted_at__gt=timezone.now()).exists()
    held = Allocation.objects.filter(during__upper_inf=True).count()
    assert 100 < held < 256


@pytest.mark.usefixtures("short")
def test_a_second_run_does_nothing_and_says_so(tmp_path: Path, django_assert_max_num_queries: Any) -> None:
    seed(tmp_path)
    before, file = story(), (tmp_path / FILE).read_bytes()
    with django_assert_max_num_queries(5):
        assert "seeded already, nothing to do" in seed(tmp_path)
    assert (story(), (tmp_path / FILE).read_bytes()) == (before, file)


@pytest.mark.usefixtures("short")
def test_the_keys_are_for_their_owner_and_open_what_the_simulation_needs(tmp_path: Path) -> None:
    seed(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    keys = read_keys(tmp_path)
    assert keys is not None
    assert [(one.name, one.cluster_id) for one in keys.clusters] == list(
        Cluster.objects.order_by("name").values_list("name", "pk")
    )
    assert ApiKey.objects.filter(kind="cluster").count() == 2
    assert ApiKey.objects.get(kind="client").permissions == ["read", "write"]
    assert "gfk_" not in json.dumps(list(ApiKey.objects.values("label", "digest")))


@pytest.mark.usefixtures("short")
def test_lost_keys_are_revoked_and_new_ones_written_and_the_history_stays(tmp_path: Path) -> None:
    seed(tmp_path)
    before, lost = story(), read_keys(tmp_path)
    (tmp_path / FILE).unlink()
    assert "its keys are revoked and new ones written" in seed(tmp_path)
    found = read_keys(tmp_path)
    assert found is not None
    assert found != lost
    assert story() == before
    assert ApiKey.objects.filter(revoked_at__isnull=False).count() == 3
    live = ApiKey.objects.filter(revoked_at=None)
    assert sorted(tuple(key.permissions) for key in live) == [("read", "write"), ("write",), ("write",)]
    (tmp_path / FILE).write_text("{}")
    seed(tmp_path)
    assert ApiKey.objects.filter(revoked_at=None).count() == 3


def test_somebody_elses_fleet_is_left_alone(tmp_path: Path) -> None:
    create_cluster(name="mine", actor="user:charlie", now=timezone.now())
    assert "not seeded" in seed(tmp_path)
    assert (Cluster.objects.count(), Tenant.objects.count()) == (1, 0)
    assert not (tmp_path / FILE).exists()


def test_a_kill_in_the_middle_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            seeding.seed(now=timezone.now(), history=SHORT)
    assert seeding.is_empty()
    assert not ApiKey.objects.exists()


def test_the_same_seed_tells_the_same_story() -> None:
    now, stories = timezone.now(), []
    for _ in range(2):
        with transaction.atomic():
            seeding.seed(now=now, history=SHORT / 2)
            stories.append(story())
            transaction.set_rollback(True)
    assert len(stories[0]) > 20
    assert stories[0] == stories[1]


@pytest.mark.django_db(transaction=True)
def test_history_wakes_nobody(rings: list[int]) -> None:
    assert seeding.seed(now=timezone.now(), history=SHORT / 4) is not None
    assert rings == []
