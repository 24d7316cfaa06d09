"""Putting jobs into the queue, those that could ever start."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Required, TypedDict, Unpack

from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Count

from clusters.models import GPU, Cluster
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput
from jobs.models import AS_ITS_KIND, Job, JobEvent, WaitPeriod
from jobs.placement import takes
from jobs.services.moving import begin_wait, note, ring_doorbell
from tenants.models import Tenant, TenantStatus


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


@transaction.atomic
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
    _check_cluster(cluster_id)
    job = Job(cluster_id=cluster_id, tenant_id=tenant_id, name=name, submitted_at=now, **fields)
    if tenant_id is not None:
        _check_tenant(tenant_id, job.gpu_count)
    _check_hardware(job)
    begin_wait(job, "", now=now)
    note(job, from_status="", actor=actor, reason="submitted", now=now)
    ring_doorbell()
    return job


@transaction.atomic
def submit_jobs(*, wishes: Sequence[JobWish], actor: str, now: datetime) -> list[Job]:
    """Put many jobs into the queue, all or none, in a number of statements that does not grow with them.

    Raises what ``submit_job`` raises, with the ``index`` of the first job that is refused; the place of an
    ``InvalidInput`` begins with it.
    """
    jobs = [Job(submitted_at=now, **wish) for wish in wishes]
    checks = _Checks()
    for index, job in enumerate(jobs):
        checks.check(job, index)
    Job.objects.bulk_create(jobs)
    during = DateTimeTZRange(now, None)
    WaitPeriod.objects.bulk_create(WaitPeriod(job=job, code=AS_ITS_KIND, during=during) for job in jobs)
    JobEvent.objects.bulk_create(
        JobEvent(job=job, at=now, to_status=job.status, actor=actor, reason="submitted") for job in jobs
    )
    ring_doorbell()
    return jobs


class _Checks:
    """The checks of ``submit_job``, each made once for all jobs of a batch that it is the same for."""

    def __init__(self) -> None:
        self.passed: set[tuple[str, int, int, str]] = set()

    def check(self, job: Job, index: int) -> None:
        """Check the job that stands at this index. Raises what ``submit_job`` raises."""
        try:
            self._once("cluster", job.cluster_id, 0, "", lambda: _check_cluster(job.cluster_id))
            tenant_id = job.tenant_id
            if tenant_id is not None:
                self._once("tenant", tenant_id, job.gpu_count, "", lambda: _check_tenant(tenant_id, job.gpu_count))
            self._once("hardware", job.cluster_id, job.gpu_count, job.gpu_type, lambda: _check_hardware(job))
        except InvalidInput as refusal:
            places = (replace(one, pointer=f"#/{index}{one.pointer.removeprefix('#')}") for one in refusal.problems)
            raise InvalidInput(*places) from refusal
        except Conflict as refusal:
            refusal.data = {**refusal.data, "index": index}
            raise

    def _once(self, what: str, row_id: int, gpu_count: int, gpu_type: str, check: Callable[[], None]) -> None:
        key = (what, row_id, gpu_count, gpu_type)
        if key not in self.passed:
            check()
            self.passed.add(key)


def _check_cluster(cluster_id: int) -> None:
    if not Cluster.objects.filter(pk=cluster_id, decommissioned_at__isnull=True).exists():
        raise InvalidInput(FieldProblem("#/cluster_id", "does_not_exist", f"There is no cluster {cluster_id}."))


def _check_tenant(tenant_id: int, gpu_count: int) -> None:
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    if tenant is None:
        raise InvalidInput(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
    if tenant.status != TenantStatus.ACTIVE:
        raise TenantInactive(f"Tenant {tenant.name} is inactive.", tenant_id=tenant_id)
    if gpu_count > tenant.gpu_quota:
        detail = f"The job needs {gpu_count} GPUs at once, and the tenant's quota is {tenant.gpu_quota}."
        raise OverQuota(detail, needs=gpu_count, quota=tenant.gpu_quota)


def _check_hardware(job: Job) -> None:
    """What counts is what the cluster has, busy or broken or not: the rest may come back."""
    gpus = GPU.objects.filter(node__cluster_id=job.cluster_id, retired_at__isnull=True).order_by()
    counts = dict(gpus.values_list("model").annotate(count=Count("pk")))
    admitted = {model: count for model, count in counts.items() if takes(job.gpu_type, model)}
    most = max(admitted.values(), default=0)
    if most < job.gpu_count:
        wants = job.gpu_type or "one model"
        detail = f"The job needs {job.gpu_count} GPUs of {wants}, and the cluster has at most {most} of one such model."
        raise NoSuchHardware(detail, needs=job.gpu_count, gpu_type=job.gpu_type, available=counts)
