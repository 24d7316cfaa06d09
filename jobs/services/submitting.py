"""Putting jobs into the queue, those that could ever start.

All is one statement: it checks the jobs, and inserts them, their events and their wait periods if it refuses none.
Rows that decide are shared by it: whoever lowers a quota, takes a tenant or a cluster out of service or retires a GPU
waits for a submission that is under way, or is waited for and heard. Only when the statement refuses is it found out
what for.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Required, TypedDict, Unpack

from django.db import connection, transaction

from clusters.services import share_gpu_counts
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput
from gpufleet.common.prepared import Prepared
from jobs.models import Job
from jobs.placement import takes
from jobs.services.moving import ring_doorbell
from tenants.models import TenantStatus

# ``models``: those that the job takes, as far as this process knows of any; null: all.
WISHES = """
    wish AS MATERIALIZED (
        SELECT *
          FROM jsonb_to_recordset(%(wishes)s) AS wish (
               index int, cluster_id bigint, tenant_id bigint, name text, gpu_count int, gpu_type text,
               priority smallint, submitted_by text, estimated_duration_min int, command jsonb, image text, env jsonb,
               models jsonb))
"""
# What decides is locked in the order of the house. A row that somebody changes ``alone`` is waited for, and then read
# as it has become; that a lock of the scheduler or of an invoice stands on a tenant is no hindrance.
GROUNDS = """
    tenant AS (
        SELECT id, gpu_quota FROM tenants_tenant
         WHERE id = ANY(ARRAY(SELECT tenant_id FROM wish)) AND status = 'active'
         ORDER BY id FOR KEY SHARE),
    cluster AS (
        SELECT id FROM clusters_cluster
         WHERE id = ANY(ARRAY(SELECT cluster_id FROM wish)) AND decommissioned_at IS NULL
           AND (SELECT count(*) FROM tenant) >= 0
         ORDER BY id FOR KEY SHARE),
    counted AS (
        SELECT cluster_id, by_model FROM clusters_gpucount
         WHERE cluster_id = ANY(ARRAY(SELECT id FROM cluster))
         ORDER BY cluster_id FOR KEY SHARE),
    refused AS (
        SELECT FROM wish
          LEFT JOIN tenant ON tenant.id = wish.tenant_id
          LEFT JOIN counted ON counted.cluster_id = wish.cluster_id
         WHERE wish.tenant_id IS NOT NULL AND (tenant.id IS NULL OR wish.gpu_count > tenant.gpu_quota)
            OR NOT EXISTS (SELECT FROM jsonb_each(counted.by_model) AS model (name, gpus)
                            WHERE gpus::int >= wish.gpu_count AND (wish.models IS NULL OR wish.models ? model.name)))
"""
# Ids are given in the order of the wishes. What has been admitted under these locks is not checked again.
JOBS = """
    job AS (
        INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                              submitted_by, estimated_duration_min, command, image, env, submitted_at)
        SELECT cluster_id, tenant_id, name, gpu_count, gpu_type, priority, 'queued', '',
               submitted_by, estimated_duration_min, command, image, env, %(now)s
          FROM wish
         WHERE %(admitted)s OR NOT EXISTS (SELECT FROM refused)
         ORDER BY index
        RETURNING id)
"""
PERIODS = """
    period AS (
        INSERT INTO jobs_waitperiod (job_id, code, figures, during)
        SELECT id, 'kind', '{}', tstzrange(%(now)s, NULL) FROM job)
"""
EVENTS = """
    event AS (
        INSERT INTO jobs_jobevent (job_id, at, from_status, to_status, actor, reason)
        SELECT id, %(now)s, '', 'queued', %(actor)s, 'submitted' FROM job)
"""
SUBMIT = Prepared(
    "jobs_submit",
    f"WITH {WISHES}, {GROUNDS}, {JOBS}, {PERIODS}, {EVENTS} SELECT id FROM job",  # noqa: S608  (SQL of this module alone)
    wishes="jsonb",
    now="timestamptz",
    actor="text",
    admitted="boolean",
)
WISHED = (
    "cluster_id",
    "tenant_id",
    "name",
    "gpu_count",
    "gpu_type",
    "priority",
    "submitted_by",
    "estimated_duration_min",
    "command",
    "image",
    "env",
)

SHARE_TENANTS = "SELECT id, name, status, gpu_quota FROM tenants_tenant WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE"
SHARE_CLUSTERS = """
SELECT id FROM clusters_cluster WHERE id = ANY(%s) AND decommissioned_at IS NULL ORDER BY id FOR KEY SHARE
"""


class JobFields(TypedDict, total=False):
    """What a client may say of its job beside the required; what it leaves out has the model's default."""

    gpu_count: int
    gpu_type: str
    priority: int
    submitted_by: str
    estimated_duration_min: int | None
    command: list[str] | None
    image: str
    env: dict[str, str]


class TenantInactive(Conflict):
    """An inactive tenant starts nothing new."""

    code = "tenant_inactive"


class OverQuota(Conflict):
    """The job asks for more GPUs than the tenant may ever hold at once."""

    code = "over_quota"


class NoSuchHardware(Conflict):
    """The cluster does not have that many GPUs of any one model that the job takes, busy or free."""

    code = "no_such_hardware"


class JobWish(JobFields, total=False):
    """A job of a batch: where, under which name, for whom, and what ``JobFields`` says."""

    cluster_id: Required[int]
    name: Required[str]
    tenant_id: int | None


def submit_job(
    *,
    cluster_id: int,
    name: str,
    actor: str,
    now: datetime,
    tenant_id: int | None = None,
    **fields: Unpack[JobFields],
) -> Job:
    """Put a job into the queue and ring the doorbell.

    Raises ``InvalidInput`` for a cluster or tenant that is not there, and ``TenantInactive``,
    ``OverQuota`` or ``NoSuchHardware`` for a job that could never start.
    """
    job = Job(cluster_id=cluster_id, tenant_id=tenant_id, name=name, submitted_at=now, **fields)
    _submit([job], actor=actor, now=now)
    return job


def submit_jobs(*, wishes: Sequence[JobWish], actor: str, now: datetime) -> list[Job]:
    """Put many jobs into the queue, all or none, in a number of statements that does not grow with them.

    Raises what ``submit_job`` raises, with the ``index`` of the first job that is refused; the place of an
    ``InvalidInput`` begins with it.
    """
    jobs = [Job(submitted_at=now, **wish) for wish in wishes]
    _submit(jobs, actor=actor, now=now, placed=True)
    return jobs


def _submit(jobs: Sequence[Job], *, actor: str, now: datetime, placed: bool = False) -> None:
    """One statement is a transaction by itself; a second one is needed only if it refused, and then both are one."""
    if not _insert(jobs, actor=actor, now=now):
        with transaction.atomic():
            _admit(jobs, placed=placed)
            _insert(jobs, actor=actor, now=now, admitted=True)
    ring_doorbell()


def _insert(jobs: Sequence[Job], *, actor: str, now: datetime, admitted: bool = False) -> bool:
    """Put the jobs on record, with their ids, unless one is refused. Returns whether they are."""
    parameters = {
        "wishes": json.dumps([_wish(job, index) for index, job in enumerate(jobs)]),
        "now": now,
        "actor": actor,
        "admitted": admitted,
    }
    rows = sorted(SUBMIT.rows(parameters))
    for job, (job_id,) in zip(jobs, rows, strict=False):
        job.pk = job_id
        job._state.adding, job._state.db = False, connection.alias
    return len(rows) == len(jobs)


def _wish(job: Job, index: int) -> dict[str, Any]:
    return {"index": index, "models": _models_for(job.gpu_type), **{name: getattr(job, name) for name in WISHED}}


# Models that this process has come across, so that the one rule of what a job takes need not be written in SQL too. A
# job that takes one which is not among them is refused by the statement and admitted by ``_admit``, which learns it.
_models: frozenset[str] = frozenset()


def _models_for(gpu_type: str) -> list[str] | None:
    return [model for model in _models if takes(gpu_type, model)] if gpu_type else None


def _learn(models: Iterable[str]) -> None:
    global _models
    _models = _models.union(models)  # Another set: threads read the old one meanwhile.


@dataclass(frozen=True, slots=True)
class _TenantRow:
    name: str
    status: str
    gpu_quota: int


def _admit(jobs: Sequence[Job], *, placed: bool) -> None:
    """Check the jobs in their order, under locks that last. Raises what ``submit_job`` raises, ``placed`` by index."""
    grounds = _Grounds(jobs)
    for index, job in enumerate(jobs):
        try:
            grounds.check(job)
        except InvalidInput as refusal:
            if placed:
                places = (replace(one, pointer=f"#/{index}{one.pointer.removeprefix('#')}") for one in refusal.problems)
                raise InvalidInput(*places) from refusal
            raise
        except Conflict as refusal:
            if placed:
                refusal.data = {**refusal.data, "index": index}
            raise


class _Grounds:
    """What decides about jobs, locked as the statement locks it."""

    def __init__(self, jobs: Collection[Job]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(SHARE_TENANTS, [[job.tenant_id for job in jobs if job.tenant_id is not None]])
            self.tenants = {row_id: _TenantRow(*row) for row_id, *row in cursor.fetchall()}
            cursor.execute(SHARE_CLUSTERS, [[job.cluster_id for job in jobs]])
            self.clusters: Mapping[int, Mapping[str, int]] = share_gpu_counts(
                [row_id for (row_id,) in cursor.fetchall()]
            )
        _learn(model for counts in self.clusters.values() for model in counts)
        self._most = cache(self._most_of)

    def check(self, job: Job) -> None:
        """Raises what ``submit_job`` raises."""
        if job.cluster_id not in self.clusters:
            detail = f"There is no cluster {job.cluster_id}."
            raise InvalidInput(FieldProblem("#/cluster_id", "does_not_exist", detail))
        if job.tenant_id is not None:
            self._check_tenant(job.tenant_id, job.gpu_count)
        self._check_hardware(job)

    def _check_tenant(self, tenant_id: int, gpu_count: int) -> None:
        tenant = self.tenants.get(tenant_id)
        if tenant is None:
            raise InvalidInput(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
        if tenant.status != TenantStatus.ACTIVE:
            raise TenantInactive(f"Tenant {tenant.name} is inactive.", tenant_id=tenant_id)
        if gpu_count > tenant.gpu_quota:
            detail = f"The job needs {gpu_count} GPUs at once, and the tenant's quota is {tenant.gpu_quota}."
            raise OverQuota(detail, needs=gpu_count, quota=tenant.gpu_quota)

    def _check_hardware(self, job: Job) -> None:
        """What counts is what the cluster has, busy or broken or not: the rest may come back."""
        most = self._most(job.cluster_id, job.gpu_type)
        if most < job.gpu_count:
            wants = job.gpu_type or "one model"
            detail = (
                f"The job needs {job.gpu_count} GPUs of {wants}, and the cluster has at most {most} of one such model."
            )
            available = dict(self.clusters[job.cluster_id])
            raise NoSuchHardware(detail, needs=job.gpu_count, gpu_type=job.gpu_type, available=available)

    def _most_of(self, cluster_id: int, gpu_type: str) -> int:
        counts = self.clusters[cluster_id].items()
        return max((count for model, count in counts if takes(gpu_type, model)), default=0)
