"""Ten jobs of ten kinds in one world, each explained over HTTP; every figure is held against SQL of this file's own,
which reads the ledger and the fleet and knows nothing of the planner."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from clusters.models import Cluster, ClusterStatus, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Job
from jobs.scheduler import run_cycle
from jobs.services import change_status
from jobs.tests.factories import allocate, make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def sql(query: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
    """The rows that the database has."""
    with connection.cursor() as cursor:
        cursor.execute(query, named or parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


class World:
    """East: three nodes of eight H100s and one of four A100s, partly held, beside a draining one. West is in
    maintenance. Ten jobs wait, of which a cycle has started what it can."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.east = make_cluster("east")
        self.west = make_cluster("west", status=ClusterStatus.MAINTENANCE)
        h1, h2, h3 = (self.node(self.east, f"h-{number}", 8, "H100") for number in (1, 2, 3))
        a1 = self.node(self.east, "a-1", 4, "A100")
        self.node(self.east, "a-2", 4, "A100", intent="draining")
        self.node(self.west, "w-1", 4, "L40S")
        acme, bluefin = make_tenant("acme", gpu_quota=12), make_tenant("bluefin", gpu_quota=64)
        dormant = make_tenant("dormant", status="inactive")
        self.run(h1, 6, 20, tenant=acme)
        self.run(h2, 5, 30, tenant=bluefin)
        self.run(h2, 1, None)
        self.run(h3, 7, 45)
        self.run(a1, 4, 90, tenant=bluefin)
        self.whole_node = self.queue(8, age=9, priority=1, tenant=bluefin, estimated_duration_min=60)
        self.fragmented = self.queue(3, age=8)
        self.over_quota = self.queue(8, age=7, tenant=acme)
        self.no_such_model = self.queue(1, "B200", age=6)
        self.draining = self.queue(4, "A100", age=5)
        self.spread = self.queue(12, age=4)
        self.held = self.queue(1, age=3)
        self.inactive = self.queue(1, age=2, tenant=dormant)
        self.maintenance = self.queue(1, "L40S", age=1, cluster=self.west)
        self.tight = self.queue(2, age=1)
        self.reserved = self.queue(2)
        at = now - 2 * MINUTE
        change_status(job_id=self.held.pk, status="blocked", reason="waits for data", actor="key:1", now=at)
        run_cycle(now=now)

    def node(self, cluster: Cluster, hostname: str, gpus: int, model: str, **fields: Any) -> Node:
        """A node with all of its GPUs."""
        node = make_node(cluster, hostname, total_gpus=gpus, **fields)
        for _ in range(gpus):
            make_gpu(node, model=model)
        return node

    def run(self, node: Node, gpus: int, minutes: int | None, *, tenant: Tenant | None = None) -> Job:
        """A job that ends by its estimate in so many minutes, and has run for ten."""
        since = self.now - 10 * MINUTE
        job = make_job(
            cluster=node.cluster,
            tenant=tenant,
            gpu_count=gpus,
            estimated_duration_min=None if minutes is None else minutes + 10,
            status="running",
            submitted_at=since,
            started_at=since,
        )
        free = node.gpus.exclude(allocations__during__upper_inf=True).order_by("pk")[:gpus]
        allocate(job, free, start=since)
        return job

    def queue(self, gpus: int, gpu_type: str = "H100", *, age: int = 0, **fields: Any) -> Job:
        """A job in the queue since so many minutes."""
        fields.setdefault("cluster", self.east)
        return make_job(gpu_count=gpus, gpu_type=gpu_type, submitted_at=self.now - age * MINUTE, **fields)


@pytest.fixture
def world() -> World:
    """The world as it is now, to the second."""
    return World(timezone.now().replace(microsecond=0))


@pytest.fixture
def api() -> APIClient:
    """Charlie sees the whole fleet."""
    return client_with(make_key())


def explained(api: APIClient, job: Job) -> dict[str, Any]:
    """What the API says."""
    answer = api.get(f"/api/jobs/{job.pk}/explain")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


FREE = """
SELECT node.hostname, count(*)
  FROM clusters_gpu AS gpu
  JOIN clusters_node AS node ON node.id = gpu.node_id
 WHERE node.cluster_id = %s AND gpu.model = %s AND gpu.retired_at IS NULL AND gpu.health = 'healthy'
   AND node.intent = 'active' AND NOT node.silent
   AND NOT EXISTS (SELECT FROM jobs_allocation AS held WHERE held.gpu_id = gpu.id AND upper_inf(held.during))
 GROUP BY node.id ORDER BY count(*) DESC, node.id
"""
# When each running job ends that says so, and how many GPUs have come free by then: on its node, and in all.
OUT_OF_SERVICE = """
SELECT count(*)
  FROM clusters_gpu AS gpu
  JOIN clusters_node AS node ON node.id = gpu.node_id
 WHERE node.cluster_id = %s AND gpu.model = %s AND node.intent <> 'active'
"""
ENDS = """
SELECT ends_at, sum(gpus) OVER (PARTITION BY node_id ORDER BY ends_at) + free_here, hostname,
       sum(gpus) OVER (ORDER BY ends_at) + free_in_all, row_number() OVER (ORDER BY ends_at),
       row_number() OVER (PARTITION BY node_id ORDER BY ends_at)
  FROM (SELECT node.id AS node_id, node.hostname, count(*) AS gpus,
               job.started_at + make_interval(mins => job.estimated_duration_min) AS ends_at
          FROM jobs_job AS job
          JOIN jobs_allocation AS held ON held.job_id = job.id AND upper_inf(held.during)
          JOIN clusters_gpu AS gpu ON gpu.id = held.gpu_id
          JOIN clusters_node AS node ON node.id = gpu.node_id
         WHERE node.cluster_id = %(cluster)s AND gpu.model = %(model)s AND job.estimated_duration_min IS NOT NULL
         GROUP BY node.id, job.id) AS ending
  CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE idle.node_id = ending.node_id) AS free_here, count(*) AS free_in_all
          FROM clusters_gpu AS idle
          JOIN clusters_node AS at ON at.id = idle.node_id AND at.intent = 'active' AND at.cluster_id = %(cluster)s
         WHERE idle.model = %(model)s
           AND NOT EXISTS (SELECT FROM jobs_allocation AS held WHERE held.gpu_id = idle.id AND upper_inf(held.during))
        ) AS idle
 ORDER BY ends_at
"""
ORDER = """
SELECT job.id
  FROM jobs_job AS job
  LEFT JOIN tenants_tenant AS tenant ON tenant.id = job.tenant_id
 WHERE job.status = 'queued' AND job.cluster_id = %s
 ORDER BY job.priority,
          (SELECT count(*) FROM jobs_allocation AS held
            WHERE held.tenant_id IS NOT DISTINCT FROM job.tenant_id AND upper_inf(held.during))::float
          / coalesce(tenant.gpu_quota, (SELECT count(*) FROM clusters_gpu)),
          job.submitted_at, job.id
"""
HOLDERS = """
SELECT gpu.model, tenant.name, count(*), count(DISTINCT held.job_id)
  FROM jobs_allocation AS held
  JOIN clusters_gpu AS gpu ON gpu.id = held.gpu_id
  JOIN clusters_node AS node ON node.id = gpu.node_id
  LEFT JOIN tenants_tenant AS tenant ON tenant.id = held.tenant_id
 WHERE upper_inf(held.during) AND node.cluster_id = %s AND gpu.model = ANY(%s)
 GROUP BY gpu.model, tenant.name
"""
UNKNOWN = """
SELECT count(*) FROM jobs_job WHERE status = 'running' AND cluster_id = %s AND estimated_duration_min IS NULL
"""


def free(cluster: Cluster, model: str) -> tuple[int, str, int]:
    """Free GPUs of a model; the node that has the most of them, and how many."""
    rows = sql(FREE, cluster.pk, model)
    return sum(count for _, count in rows), *rows[0]


def enough(cluster: Cluster, model: str, gpus: int, *, one_node: bool) -> tuple[datetime, int]:
    """When so many are free, and how many jobs have ended by then, there or anywhere."""
    for at, here, _, in_all, ended, ended_here in sql(ENDS, cluster=cluster.pk, model=model):
        if (here if one_node else in_all) >= gpus:
            return at, ended_here if one_node else ended
    raise AssertionError("never")


def clock(at: datetime) -> str:
    """As people read it."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def check_surroundings(world: World, said: dict[str, Any], job: Job, models: Sequence[str]) -> None:
    """What every waiting job of the east is told: its place, who holds what, and what is not known."""
    order = [pk for (pk,) in sql(ORDER, world.east.pk)]
    assert (said["place"], said["queued"]) == (order.index(job.pk) + 1, len(order))
    holders = {(one["model"], one["tenant"], one["gpus"], one["jobs"]) for one in said["holders"]}
    assert holders == set(sql(HOLDERS, world.east.pk, list(models)))
    assert said["running_without_estimate"] == sql(UNKNOWN, world.east.pk)[0][0]
    query = "SELECT code, upper(during) - lower(during) FROM jobs_wait WHERE job_id = %s ORDER BY during"
    for one, (code, lasted) in zip(said["waited"], sql(query, job.pk), strict=True):
        assert one["code"] == code
        assert lasted is None or one["seconds"] == lasted.total_seconds()


def codes(said: dict[str, Any]) -> list[str]:
    """The rules and shortages that are named."""
    return [blocker["code"] for blocker in said["blockers"]]


def test_it_needs_a_whole_node(world: World, api: APIClient) -> None:
    said = explained(api, world.whole_node)
    total, host, best = free(world.east, "H100")
    at, ending = enough(world.east, "H100", 8, one_node=True)
    assert (codes(said), ending) == (["capacity"], 1)
    assert said["summary"] == (
        f"Needs 8 GPUs of H100 on one node; {total} are free, and the freest node ({host}) has {best}. "
        f"1 job ends by {clock(at)} and would free them."
    )
    assert said["earliest_start"] == said["estimated_start"] == f"{at:%Y-%m-%dT%H:%M:%S}.000000Z"
    check_surroundings(world, said, world.whole_node, ["H100"])
    assert [(one["field"], one["value"]) for one in said["would_start_now_with"]] == [("gpu_count", best)]


def test_enough_are_free_but_not_together(world: World, api: APIClient) -> None:
    said = explained(api, world.fragmented)
    total, host, best = free(world.east, "H100")
    assert best < 3 <= total
    at, ending = enough(world.east, "H100", 3, one_node=True)
    assert (codes(said), ending) == (["fragmented"], 1)
    assert said["summary"].startswith(
        f"Needs 3 GPUs of H100 on one node; {total} are free, and the freest node ({host}) has {best}."
    )
    assert said["summary"].endswith(f"1 job ends by {clock(at)} and would free them.")
    check_surroundings(world, said, world.fragmented, ["H100"])


def test_its_tenant_is_at_its_quota(world: World, api: APIClient) -> None:
    said = explained(api, world.over_quota)
    held, quota = sql(
        "SELECT count(held.id), gpu_quota FROM tenants_tenant AS tenant LEFT JOIN jobs_allocation AS held"
        " ON held.tenant_id = tenant.id AND upper_inf(held.during) WHERE tenant.id = %s GROUP BY tenant.id",
        world.over_quota.tenant_id,
    )[0]
    assert held + 8 > quota
    assert codes(said) == ["quota", "capacity"]
    assert said["summary"] == f"Needs 8 GPUs; the tenant holds {held} of its quota of {quota}."
    assert said["blockers"][0]["figures"]["short_by"] == held + 8 - quota
    check_surroundings(world, said, world.over_quota, ["H100"])


def test_there_is_no_such_model(world: World, api: APIClient) -> None:
    said = explained(api, world.no_such_model)
    assert sql("SELECT count(*) FROM clusters_gpu WHERE model LIKE %s", "%B200%") == [(0,)]
    assert (said["summary"], codes(said)) == ("The cluster has no GPU of B200.", ["capacity"])
    assert (said["earliest_start"], said["estimated_start"], said["holders"]) == (None, None, [])
    check_surroundings(world, said, world.no_such_model, [])


def test_what_is_idle_there_is_draining(world: World, api: APIClient) -> None:
    said = explained(api, world.draining)
    assert sql(FREE, world.east.pk, "A100") == []
    at, ending = enough(world.east, "A100", 4, one_node=True)
    assert ending == 1
    [(drained,)] = sql(OUT_OF_SERVICE, world.east.pk, "A100")
    assert said["summary"] == (
        f"Needs 4 GPUs of A100 on one node; 0 are free, {drained} are out of service. "
        f"1 job ends by {clock(at)} and would free them."
    )
    check_surroundings(world, said, world.draining, ["A100"])


def test_it_needs_more_than_one_node(world: World, api: APIClient) -> None:
    said = explained(api, world.spread)
    total, _, _ = free(world.east, "H100")
    at, ending = enough(world.east, "H100", 12, one_node=False)
    assert codes(said) == ["capacity"]
    assert said["summary"].startswith(f"Needs 12 GPUs of H100; {total} are free.")
    assert said["summary"].endswith(f"{ending} jobs end by {clock(at)} and would free them.")
    check_surroundings(world, said, world.spread, ["H100"])


def test_a_person_holds_it(world: World, api: APIClient) -> None:
    said = explained(api, world.held)
    reason = sql("SELECT reason FROM jobs_jobevent WHERE job_id = %s ORDER BY id DESC LIMIT 1", world.held.pk)[0][0]
    assert (said["status"], said["summary"]) == ("blocked", f"On hold: {reason}")
    assert (codes(said), said["place"]) == (["held"], None)
    since = sql("SELECT lower(during) FROM jobs_waitperiod WHERE job_id = %s AND code = 'held'", world.held.pk)[0][0]
    assert said["waited"][1]["seconds"] == pytest.approx((timezone.now() - since).total_seconds(), abs=60)


def test_its_tenant_is_inactive(world: World, api: APIClient) -> None:
    said = explained(api, world.inactive)
    assert sql("SELECT status FROM tenants_tenant WHERE id = %s", world.inactive.tenant_id) == [("inactive",)]
    assert (said["summary"], codes(said)[0]) == ("The tenant is inactive.", "tenant_inactive")
    check_surroundings(world, said, world.inactive, ["H100"])


def test_its_cluster_is_in_maintenance(world: World, api: APIClient) -> None:
    said = explained(api, world.maintenance)
    assert sql("SELECT status FROM clusters_cluster WHERE id = %s", world.west.pk) == [("maintenance",)]
    assert (said["summary"], codes(said)[0]) == ("The cluster is in maintenance.", "cluster_maintenance")
    assert (said["place"], said["queued"], said["holders"]) == (1, 1, [])


def test_what_is_free_is_kept_for_another(world: World, api: APIClient) -> None:
    said = explained(api, world.reserved)
    total, host, best = free(world.east, "H100")
    at, _ = enough(world.east, "H100", 8, one_node=True)
    assert best >= 2
    assert codes(said) == ["reserved"]
    assert said["summary"] == (
        f"Needs 2 GPUs of H100 on one node; {total} are free, and the freest node ({host}) has {best}. "
        f"8 are kept from {clock(at)} on for another job."
    )
    check_surroundings(world, said, world.reserved, ["H100"])


def test_one_that_runs_says_why_it_went_there(world: World, api: APIClient) -> None:
    said = explained(api, world.tight)
    hostnames = sql(
        "SELECT node.hostname, count(*), (SELECT count(*) FROM clusters_gpu AS other WHERE other.node_id = node.id"
        " AND NOT EXISTS (SELECT FROM jobs_allocation AS held WHERE held.gpu_id = other.id"
        " AND upper_inf(held.during))) FROM jobs_allocation AS held JOIN clusters_gpu AS gpu ON gpu.id = held.gpu_id"
        " JOIN clusters_node AS node ON node.id = gpu.node_id WHERE held.job_id = %s GROUP BY node.id",
        world.tight.pk,
    )
    assert [(host,) for host in said["placed_on"]] == [row[:1] for row in hostnames]
    gpus, left = hostnames[0][1:]
    assert said["summary"] == f"Started on {gpus} × H100, on one node, the tightest fit: {left} of its GPUs stay free."
