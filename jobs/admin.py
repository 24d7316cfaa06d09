"""The queue and its ledger in the operator's console."""

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.decorators import display

from gpufleet.common.admin import ReadOnlyAdmin, actor_of, report, shown_during
from jobs import services
from jobs.models import Allocation, Job, JobEvent, JobStatus, Run, SchedulerCycle, WaitPeriod

COLOURS = {
    "queued": "info",
    "blocked": "warning",
    "running": "success",
    "completed": "primary",
    "failed": "danger",
    "cancelled": "default",
}


class LedgerInline(TabularInline):  # type: ignore[misc]  # unfold is untyped
    """Rows of a job that only services write."""

    ordering = ["pk"]
    can_delete = False
    extra = 0
    tab = True

    def has_add_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        """They are written by services."""
        return False


class EventInline(LedgerInline):
    """Every change of the job's state."""

    model = JobEvent
    fields = readonly_fields = ["at", "from_status", "to_status", "actor", "reason"]


class RunInline(LedgerInline):
    """What the nodes' agents reported, with the last lines of its logs."""

    model = Run
    fields = readonly_fields = ["node", "rank", "state", "exit_code", "message", "log_tail", "started_at", "ended_at"]


class WaitInline(LedgerInline):
    """What the job waited for, and how long."""

    model = WaitPeriod
    fields = readonly_fields = ["code", "figures", shown_during]


class AllocationInline(LedgerInline):
    """The GPUs the job held, and when."""

    model = Allocation
    fields = readonly_fields = ["gpu", shown_during, "price_per_gpu_hour", "currency"]


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs: submitted through the API; held, released and cancelled here."""

    list_display = [
        "name",
        "shown_status",
        "priority",
        "tenant",
        "cluster",
        "wish",
        "holds",
        "block_reason",
        "submitted_at",
    ]
    list_filter = ["status", "cluster", "tenant", "priority"]
    search_fields = ["name", "=id", "submitted_by"]
    list_select_related = ["tenant", "cluster"]
    date_hierarchy = "submitted_at"
    inlines = [EventInline, RunInline, WaitInline, AllocationInline]
    actions = ["hold", "release", "cancel"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """With how many GPUs each job holds now."""
        held = Count("allocations", filter=Q(allocations__during__upper_inf=True))
        jobs: QuerySet[Job] = super().get_queryset(request).annotate(held=held)
        return jobs

    @display(description="Status", ordering="status", label=COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, job: Job) -> str:
        """The status as a coloured word."""
        return job.status

    @admin.display(description="Wants")
    def wish(self, job: Job) -> str:
        """How many GPUs of what."""
        return f"{job.gpu_count} × {job.gpu_type or 'any model'}"

    @admin.display(description="Holds", ordering="held")
    def holds(self, job: Job) -> int:
        """GPUs held now."""
        return int(getattr(job, "held", 0))

    def has_move_permission(self, request: HttpRequest) -> bool:
        """Whoever may change jobs may move them."""
        return request.user.has_perm("jobs.change_job")

    @admin.action(description="Hold (the scheduler leaves them alone)", permissions=["move"])
    def hold(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        """queued → blocked."""
        reason = f"held in the console by {request.user.get_username()}"
        self._move(request, jobs, JobStatus.BLOCKED, reason)

    @admin.action(description="Release (back into the queue)", permissions=["move"])
    def release(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        """blocked → queued."""
        self._move(request, jobs, JobStatus.QUEUED, "released in the console")

    @admin.action(description="Cancel (frees their GPUs)", permissions=["move"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        """Anything alive → cancelled."""
        self._move(request, jobs, JobStatus.CANCELLED, "cancelled in the console")

    def _move(self, request: HttpRequest, jobs: QuerySet[Job], status: str, reason: str) -> None:
        ids = sorted(job.pk for job in jobs)
        moved, refusals = services.change_statuses(
            job_ids=ids, status=status, reason=reason, actor=actor_of(request), now=timezone.now()
        )
        report(request, f"{moved} of {len(ids)} jobs are now {status}.", refusals)


@admin.register(Allocation)
class AllocationAdmin(ReadOnlyAdmin):
    """The ledger: who held which GPU when, at what price."""

    list_display = ["gpu", "job", "tenant", shown_during, "price_per_gpu_hour", "currency"]
    list_filter = ["tenant", "currency"]
    search_fields = ["=job__id", "=gpu__id", "job__name"]
    list_select_related = ["gpu", "job", "tenant"]


@admin.register(WaitPeriod)
class WaitPeriodAdmin(ReadOnlyAdmin):
    """The ledger: who waited for what."""

    list_display = ["job", "code", "figures", shown_during]
    list_filter = ["code"]
    search_fields = ["=job__id", "job__name"]
    list_select_related = ["job"]


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    """Every change of a job's state."""

    list_display = ["at", "job", "from_status", "to_status", "actor", "reason"]
    list_filter = ["to_status"]
    search_fields = ["=job__id", "job__name", "actor"]
    list_select_related = ["job"]


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    """What the nodes' agents reported of the jobs that they ran."""

    list_display = ["job", "node", "rank", "state", "exit_code", "message", "started_at", "ended_at"]
    list_filter = ["state"]
    search_fields = ["=job__id", "job__name", "node__hostname"]
    list_select_related = ["job", "node"]


@admin.register(SchedulerCycle)
class SchedulerCycleAdmin(ReadOnlyAdmin):
    """The scheduler's last cycle."""

    list_display = ["finished_at", "duration_ms", "jobs_started", "jobs_waiting"]
