"""What needs a person now: each kind with how many there are, and the list of the console that shows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse

from alerts.models import AlertEvent, Delivery, DeliveryStatus, EventStatus
from billing.models import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus, OutboxMessage, OutboxStatus
from billing.models import StripeDifference as Difference
from clusters.models import GPU, GPUState, Node, NodeStatus
from clusters.queries import held_back_lately
from gpufleet.common.models import BulkRun
from jobs.models import Job, JobStatus

# Whoever sees to it is done with most work in bulk by then.
LEFT_AFTER = timedelta(minutes=2)

Rows = Callable[[datetime], QuerySet[Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that a person should look at. ``say``: one of it, and several; ``query`` filters the model's list."""

    say: tuple[str, str]
    query: str
    rows: Rows
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """A kind of which there is some."""

    count: int
    what: str
    link: str
    urgent: bool


KINDS: Sequence[Kind] = (
    Kind(
        ("alert fires that nobody has acknowledged", "alerts fire that nobody has acknowledged"),
        # What hangs under another asks for nobody by itself.
        "status__exact=firing&acknowledged_at__isnull=True&parent__isempty=1",
        lambda now: AlertEvent.objects.filter(
            status=EventStatus.FIRING, acknowledged_at__isnull=True, parent__isnull=True
        ),
        urgent=True,
    ),
    Kind(
        ("node is offline", "nodes are offline"),
        "status=offline&decommissioned_at__isempty=1",
        lambda now: Node.objects.filter(status=NodeStatus.OFFLINE, decommissioned_at__isnull=True),
        urgent=True,
    ),
    Kind(
        ("GPU is unhealthy", "GPUs are unhealthy"),
        "state__exact=unhealthy&retired_at__isempty=1",
        lambda now: GPU.objects.filter(state=GPUState.UNHEALTHY, retired_at__isnull=True),
        urgent=True,
    ),
    Kind(
        ("GPU is faulty, but left in service", "GPUs are faulty, but left in service"),
        "left=in_service",
        lambda now: held_back_lately(now=now),
        urgent=True,
    ),
    Kind(
        ("step to Stripe is a dead letter", "steps to Stripe are dead letters"),
        "status__exact=dead",
        lambda now: OutboxMessage.objects.filter(status=OutboxStatus.DEAD),
        urgent=True,
    ),
    Kind(
        ("alert message could not be delivered", "alert messages could not be delivered"),
        "status__exact=dead",
        lambda now: Delivery.objects.filter(status=DeliveryStatus.DEAD),
        urgent=True,
    ),
    Kind(
        ("difference from Stripe", "differences from Stripe"),
        "gone_at__isempty=1",
        lambda now: Difference.objects.filter(gone_at__isnull=True),
    ),
    Kind(
        ("invoice is overdue", "invoices are overdue"),
        "overdue=yes",
        lambda now: Invoice.objects.filter(status=InvoiceStatus.OPEN, due_at__lt=now),
    ),
    Kind(
        ("draft invoice awaits its review", "draft invoices await their review"),
        "status__exact=draft",
        lambda now: Invoice.objects.filter(status=InvoiceStatus.DRAFT),
    ),
    Kind(
        ("credit note awaits a decision", "credit notes await a decision"),
        "status__exact=draft",
        lambda now: CreditNote.objects.filter(status=CreditNoteStatus.DRAFT),
    ),
    Kind(
        ("piece of work in bulk was left in the middle", "pieces of work in bulk were left in the middle"),
        "finished_at__isempty=1",
        lambda now: BulkRun.objects.filter(finished_at=None, started_at__lt=now - LEFT_AFTER),
    ),
    Kind(
        ("job is on hold", "jobs are on hold"),
        "status__exact=blocked",
        lambda now: Job.objects.filter(status=JobStatus.BLOCKED),
    ),
)


def needs_now(may: Callable[[str], bool], *, now: datetime) -> list[Need]:
    """Those kinds whose rows this person may see, and of which there is some. A query a kind."""
    counted = [(kind, kind.rows(now)) for kind in KINDS]
    seen = [(kind, rows) for kind, rows in counted if may(_permission(rows))]
    needs = [(kind, rows.model, rows.count()) for kind, rows in seen]
    return [
        Need(count, kind.say[count > 1], f"{_list_of(model)}?{kind.query}", kind.urgent)
        for kind, model, count in needs
        if count
    ]


def _permission(rows: QuerySet[Any]) -> str:
    meta = rows.model._meta
    return f"{meta.app_label}.view_{meta.model_name}"


def _list_of(model: type[Any]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
