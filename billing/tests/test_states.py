"""The table of what bills, held against what the services really do."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing.ledger import unbilled_lines
from billing.states import GPU_STATE_BILLS, JOB_STATUS_BILLS
from billing.tests.factories import LONG_AGO, make_rate
from clusters.models import GPUState, GPUStatePeriod
from clusters.tests.factories import make_gpu, make_node
from jobs.models import Allocation, Job, JobStatus
from jobs.services import change_status, fail_lost_job
from jobs.tests.factories import NOW, allocate, make_job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


def job_in(status: str) -> Job:
    """A job that was brought into the status as clients and the scheduler do, at noon."""
    node = make_node()
    gpu, rate = make_gpu(node, registered_at=LONG_AGO), make_rate()
    began = "running" if status in ("running", "completed", "failed") else "queued"
    job = make_job(cluster=node.cluster, tenant=alice(), status=began)
    if began == "running":
        allocate(job, [gpu], rate_id=rate.pk, price_per_gpu_hour=Decimal(2), currency="USD")
    if status != began:
        change_status(job_id=job.pk, status=status, reason="test", actor="test", now=NOW)
    return job


def billed_seconds(job: Job) -> int:
    """What the hour after noon bills."""
    lines = unbilled_lines(start=NOW, end=NOW + HOUR, tenant_ids=[job.tenant_id or 0])
    return sum(line.price.billed_seconds for line in lines)


@pytest.mark.parametrize("status", JobStatus.values)
def test_the_statuses_of_jobs(status: str) -> None:
    assert billed_seconds(job_in(status)) == (3600 if JOB_STATUS_BILLS[status] else 0)


@pytest.mark.parametrize("state", GPUState.values)
def test_the_states_of_gpus(state: str) -> None:
    job = job_in("running")
    gpu_id = Allocation.objects.get(job=job).gpu_id
    GPUStatePeriod.objects.filter(gpu=gpu_id).update(during=DateTimeTZRange(LONG_AGO, NOW))
    GPUStatePeriod.objects.create(gpu_id=gpu_id, state=state, during=DateTimeTZRange(NOW, None))
    if state == GPUState.OFFLINE:
        fail_lost_job(job_id=job.pk, reason="The node fell silent.", lost_at={gpu_id: NOW}, now=NOW + HOUR)
    assert billed_seconds(job) == (3600 if GPU_STATE_BILLS[state] else 0)


def test_the_table_has_every_state() -> None:
    assert set(JOB_STATUS_BILLS) == set(JobStatus.values)
    assert set(GPU_STATE_BILLS) == set(GPUState.values)
