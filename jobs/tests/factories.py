"""Jobs for tests: rows as the services would leave them."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from clusters.models import GPU
from clusters.tests.factories import make_cluster
from jobs.models import AS_ITS_KIND, Allocation, Job, JobStatus, WaitPeriod

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

_numbers = itertools.count(1)


def make_job(name: str | None = None, **fields: Any) -> Job:
    """A job submitted at noon that waits in the queue, unless told otherwise."""
    if "cluster" not in fields and "cluster_id" not in fields:
        fields["cluster"] = make_cluster()
    at = fields.setdefault("submitted_at", NOW)
    status = fields.get("status", JobStatus.QUEUED)
    if status not in (JobStatus.QUEUED, JobStatus.BLOCKED, JobStatus.CANCELLED):
        fields.setdefault("started_at", at)
    if status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
        fields.setdefault("ended_at", at)
    job = Job.objects.create(name=name or f"job-{next(_numbers)}", **fields)
    if status == JobStatus.QUEUED:
        WaitPeriod.objects.create(job=job, code=AS_ITS_KIND, during=DateTimeTZRange(at, None))
    return job


def allocate(
    job: Job, gpus: Iterable[GPU], *, start: datetime = NOW, end: datetime | None = None, **rate: Any
) -> list[Allocation]:
    """The job holds these GPUs from ``start``, until ``end`` or still; ``rate`` is its price."""
    during = DateTimeTZRange(start, end)
    return [Allocation.objects.create(job=job, gpu=gpu, tenant_id=job.tenant_id, during=during, **rate) for gpu in gpus]
