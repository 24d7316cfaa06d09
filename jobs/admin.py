"""The queue and its ledger in the operator's console."""

from collections.abc import Collection, Sequence
from functools import partial

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.decorators import display
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from gpufleet.common.admin import (
    Answers,
    Question,
    ReadOnlyAdmin,
    actor_of,
    asks,
    counted,
    report,
    said_of,
    shown_during,
    shown_price,
)
from gpufleet.common.asking import ReasonForm, one_by_one
from gpufleet.common.errors import DomainError
from jobs import services
from jobs.models import Allocation, Job, JobEvent, JobStatus, KindWait, Run, SchedulerCycle, WaitPeriod
from jobs.queries import ALIVE, WAITING, reason_to_wait

COLOURS = {
    "queued": "info",
    "blocked": "warning",
    "running": "success",
    "completed": "primary",
    "failed": "danger",
    "cancelled": "default",
}
# The statuses out of which an action makes sense.
APPLIES_TO = {
    "hold": [JobStatus.QUEUED],
    "release": [JobStatus.BLOCKED],
    "requeue": [JobStatus.RUNNING],
    "change_priority": WAITING,
}
FIELDS = ["status", "priority", "block_reason", "started_at", "ended_at"]


class PriorityForm(ReasonForm):
    """Which, and why."""

    priority = forms.IntegerField(
        min_value=1, max_value=10, widget=UnfoldAdminIntegerFieldWidget, help_text="1 is the highest, 10 the lowest."
    )


def _effect(jobs: Sequence[Job], verb: str, statuses: Collection[str], one: str, many: str) -> list[str]:
    """How many of the jobs the action is for, what becomes of their GPUs, and what it means for one, or for many."""
    ids = [job.pk for job in jobs if job.status in statuses]
    held = Allocation.objects.filter(job_id__in=ids, during__upper_inf=True).count()
    freed = f" and frees {counted(held, 'GPU')}" if held else ""
    said = [f"{verb} {counted(len(ids), 'job')}{freed}. {one if len(ids) == 1 else many}"]
    if left := len(jobs) - len(ids):
        said.append(f"{said_of(left, 'job')} in a status that does not allow it, and left as before.")
    return said


HOLD = Question(
    "Hold",
    partial(
        _effect,
        verb="Holds",
        statuses=APPLIES_TO["hold"],
        one="The scheduler leaves it alone until it is released.",
        many="The scheduler leaves them alone until they are released.",
    ),
    FIELDS,
)
RELEASE = Question(
    "Release",
    partial(
        _effect,
        verb="Releases",
        statuses=APPLIES_TO["release"],
        one="It waits in the queue again.",
        many="They wait in the queue again.",
    ),
    FIELDS,
)
REQUEUE = Question(
    "Requeue",
    partial(
        _effect,
        verb="Requeues",
        statuses=APPLIES_TO["requeue"],
        one="It stops, keeps its place by age, and starts anew; what it held stays sold.",
        many="They stop, keep their place by age, and start anew; what they held stays sold.",
    ),
    FIELDS,
    danger=True,
)
CANCEL = Question(
    "Cancel",
    partial(
        _effect,
        verb="Cancels",
        statuses=ALIVE,
        one="A cancelled job never runs again.",
        many="A cancelled job never runs again.",
    ),
    FIELDS,
    danger=True,
)
PRIORITY = Question(
    "Change the priority",
    partial(
        _effect,
        verb="Moves",
        statuses=WAITING,
        one="It goes before jobs of a lower priority.",
        many="They go before jobs of a lower priority.",
    ),
    FIELDS,
    form=PriorityForm,
)


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
    verbose_name_plural = "Events"  # Short, so that the tabs fit on a phone.
    fields = readonly_fields = ["at", "from_status", "to_status", "actor", "reason"]


class RunInline(LedgerInline):
    """What the nodes' agents reported, with the last lines of its logs."""

    model = Run
    fields = readonly_fields = ["node", "rank", "state", "exit_code", "message", "log_tail", "started_at", "ended_at"]


class AllocationInline(LedgerInline):
    """The GPUs the job held, and when."""

    model = Allocation
    fields = readonly_fields = ["gpu", shown_during, shown_price]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Allocation]:
        """With the GPUs, which are links."""
        rows: QuerySet[Allocation] = super().get_queryset(request)
        return rows.select_related("gpu__node")


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
        "why",
        "submitted_at",
    ]
    list_filter = ["status", "cluster", "tenant", "priority"]
    search_fields = ["name", "=id", "submitted_by"]
    list_select_related = ["tenant", "cluster"]
    date_hierarchy = "submitted_at"
    inlines = [EventInline, RunInline, AllocationInline]
    exclude = ["block_reason"]
    readonly_fields = ["why"]
    actions = ["hold", "release", "requeue", "change_priority", "cancel"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """With how many GPUs each job holds now, and why it waits."""
        open_ones = Allocation.objects.filter(job=OuterRef("pk"), during__upper_inf=True).order_by().values("job")
        held = Coalesce(Subquery(open_ones.annotate(gpus=Count("pk")).values("gpus")), 0)
        jobs: QuerySet[Job] = super().get_queryset(request).annotate(held=held, why=reason_to_wait())
        return jobs

    @display(description="Status", ordering="status", label=COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, job: Job) -> str:
        """The status as a coloured word."""
        return job.status

    @admin.display(description="Wants", ordering="gpu_count")
    def wish(self, job: Job) -> str:
        """How many GPUs of what."""
        return f"{job.gpu_count} × {job.gpu_type or 'any model'}"

    @admin.display(description="Holds", ordering="held")
    def holds(self, job: Job) -> int:
        """GPUs held now."""
        return int(getattr(job, "held", 0))

    @admin.display(description="Why it waits")
    def why(self, job: Job) -> str:
        """In words; empty for a job that is not held and does not wait."""
        return str(getattr(job, "why", ""))

    def has_move_permission(self, request: HttpRequest) -> bool:
        """Whoever may change jobs may move them."""
        return request.user.has_perm("jobs.change_job")

    def applies(self, action: str, row: Job) -> bool:
        """What the job's status allows."""
        return row.status in APPLIES_TO.get(action, ALIVE)

    @asks(HOLD, description="Hold", permission="move")
    def hold(self, request: HttpRequest, jobs: QuerySet[Job], answers: Answers) -> None:
        """queued → blocked."""
        self._move(request, jobs, APPLIES_TO["hold"], JobStatus.BLOCKED, answers)

    @asks(RELEASE, description="Release", permission="move")
    def release(self, request: HttpRequest, jobs: QuerySet[Job], answers: Answers) -> None:
        """blocked → queued."""
        self._move(request, jobs, APPLIES_TO["release"], JobStatus.QUEUED, answers)

    @asks(REQUEUE, description="Requeue", permission="move")
    def requeue(self, request: HttpRequest, jobs: QuerySet[Job], answers: Answers) -> None:
        """running → queued."""
        self._move(request, jobs, APPLIES_TO["requeue"], JobStatus.QUEUED, answers)

    @asks(CANCEL, description="Cancel", permission="move")
    def cancel(self, request: HttpRequest, jobs: QuerySet[Job], answers: Answers) -> None:
        """Anything alive → cancelled."""
        self._move(request, jobs, ALIVE, JobStatus.CANCELLED, answers)

    @asks(PRIORITY, description="Change the priority", permission="move")
    def change_priority(self, request: HttpRequest, jobs: QuerySet[Job], answers: Answers) -> None:
        """Before others in the queue, or behind them."""
        chosen, said = list(jobs), {"priority": answers["priority"], "actor": actor_of(request)}
        waiting = [job for job in chosen if job.status in WAITING]
        done, refusals = one_by_one(
            waiting, lambda job: services.change_priority(job_id=job.pk, now=timezone.now(), **said)
        )
        self._say(request, len(done), len(chosen) - len(waiting), f"at priority {answers['priority']}", refusals)

    def _move(
        self, request: HttpRequest, jobs: QuerySet[Job], sources: Collection[str], status: str, answers: Answers
    ) -> None:
        chosen, now = list(jobs), timezone.now()
        ids = sorted(job.pk for job in chosen if job.status in sources)
        moved, refusals = services.change_statuses(
            job_ids=ids, status=status, reason=answers["reason"], actor=actor_of(request), now=now
        )
        # What it closed ended at this very instant; what the scheduler has begun since is another allocation.
        freed = Allocation.objects.filter(job_id__in=ids, during__endswith=now).count()
        outcome = f"{status}, and {said_of(freed, 'GPU')} freed" if freed else status
        self._say(request, moved, len(chosen) - len(ids), outcome, refusals)

    def _say(
        self, request: HttpRequest, moved: int, others: int, outcome: str, refusals: Sequence[DomainError]
    ) -> None:
        """What became of the jobs, and of those whose status did not allow it."""
        report(request, f"{said_of(moved, 'job')} now {outcome}." if moved else "", refusals)
        if others:
            self.message_user(
                request, f"{said_of(others, 'job')} as before: the status does not allow it.", messages.WARNING
            )


@admin.register(Allocation)
class AllocationAdmin(ReadOnlyAdmin):
    """The ledger: who held which GPU when, at what price."""

    list_display = ["gpu", "job", "tenant", shown_during, shown_price]
    list_filter = ["tenant", "currency"]
    search_fields = ["=job__id", "=gpu__id", "job__name"]
    list_select_related = ["gpu__node", "job", "tenant"]


@admin.register(KindWait)
class KindWaitAdmin(ReadOnlyAdmin):
    """The ledger: what the jobs of each kind waited for."""

    list_display = ["__str__", "tenant", "cluster", "sentence", shown_during]
    list_filter = ["code", "cluster", "tenant"]
    search_fields = ["gpu_type", "tenant__name", "cluster__name"]
    list_select_related = ["tenant", "cluster"]


@admin.register(WaitPeriod)
class WaitPeriodAdmin(ReadOnlyAdmin):
    """The ledger: who waited when, as its kind did or for a reason of its own."""

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
