"""Work on many rows in steps: agreed to once, done a few at a time, and carried on after whatever stopped it.

A run and its steps are rows. Each step is a transaction: what it does, its entry in the audit log and that it is done
are there together or not at all, so that whoever is killed in the middle leaves it to the next request, and two
requests at once share the steps. A step that is refused says why, and the others go on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import OperationalError, transaction
from django.db.models import Count, Model, Q

from gpufleet.common import audit
from gpufleet.common.errors import Conflict, DomainError, Internal
from gpufleet.common.failpoints import reach
from gpufleet.common.models import BulkRun, BulkStep, StepStatus

logger = structlog.stdlib.get_logger(__name__)

# So much in one request; a page between two requests says how far it has come.
AT_ONCE = 10
SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Row:
    """A row that work is about: in words, and what was agreed to of it."""

    name: str
    agreed: Any = None


@dataclass(frozen=True, slots=True)
class Doing:
    """What a step is to do: to which row, under which terms of the run and of the row, by whom, why and when."""

    object_id: int
    terms: Mapping[str, Any]
    agreed: Any
    actor: str
    reason: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work in bulk.

    ``do`` does it to one row, gives back the row that was changed or made, and raises a ``DomainError`` when it
    refuses; ``seen`` is what the audit log shows of that row before and after. ``outcome`` ends the sentence "3 of 5
    invoices …".
    """

    name: str
    words: str
    outcome: str
    model: type[Model]
    permission: str
    do: Callable[[Doing], Model]
    seen: Callable[[Any], Mapping[str, Any]]

    @property
    def action(self) -> str:
        """Its name in the audit log."""
        return self.name.split(".")[-1]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a run's steps stand how."""

    total: int
    done: int
    refused: int
    stopped: int
    left: int


class OtherRun(Conflict):
    """The page that asked has started something else before."""

    code = "other_run"


_works: dict[str, Work] = {}


def register(work: Work) -> None:
    """Make a kind of work known, so that its runs can be carried on in any process."""
    _works[work.name] = work


def work_of(run: BulkRun) -> Work:
    """The kind of a run's work."""
    return _works[run.work]


@transaction.atomic
def start_run(
    *,
    work: str,
    token: UUID,
    rows: Mapping[int, Row],
    terms: Mapping[str, Any],
    actor: str,
    reason: str,
    now: datetime,
) -> tuple[BulkRun, bool]:
    """Write down what was agreed to, with ``rows`` by id. Does nothing of it yet.

    Returns the run, and whether it is new: the same token again is the same run. Raises ``OtherRun`` where the token
    was somebody else's, or for other work.
    """
    values = {"work": work, "actor": actor, "reason": reason, "terms": dict(terms), "started_at": now}
    run, new = BulkRun.objects.get_or_create(token=token, defaults=values)
    if (run.work, run.actor) != (work, actor):
        raise OtherRun("This page has started other work before. Please begin again.")
    if new:
        BulkStep.objects.bulk_create(
            BulkStep(run=run, object_id=pk, name=row.name[:300], terms=row.agreed) for pk, row in sorted(rows.items())
        )
    return run, new


def carry_on(run: BulkRun, *, actor: str, now: datetime) -> None:
    """Take the next steps of a run, not more than ``AT_ONCE`` and for ``SECONDS``; the last one ends the run.

    Steps that another request has in hand are left to it. What the database gives up for the moment is raised, and its
    step waits for the next request.
    """
    until = time.monotonic() + SECONDS
    for _ in range(AT_ONCE):
        if time.monotonic() > until or not _take_step(run, actor, now):
            break
    _end(run, now)


@transaction.atomic
def stop_run(run: BulkRun, *, actor: str, now: datetime) -> None:
    """Leave undone what is not done yet, for good."""
    stopped = run.steps.filter(status=StepStatus.WAITING).update(status=StepStatus.STOPPED, told=f"Stopped by {actor}.")
    _end(run, now)
    logger.info("work in bulk stopped", run_id=run.pk, work=run.work, steps=stopped, actor=actor)


def counts_of(run: BulkRun) -> Counts:
    """How far a run has come."""
    status = {name: Count("pk", filter=Q(status=name)) for name in StepStatus.values}
    found = run.steps.aggregate(total=Count("pk"), **status)
    return Counts(found["total"], found["done"], found["refused"], found["stopped"], found["waiting"])


def _end(run: BulkRun, now: datetime) -> None:
    if not run.steps.filter(status=StepStatus.WAITING).exists():
        BulkRun.objects.filter(pk=run.pk, finished_at=None).update(finished_at=now)
        run.refresh_from_db()


@transaction.atomic
def _take_step(run: BulkRun, actor: str, now: datetime) -> bool:
    """The first step that nobody has in hand, done or refused; whether there was one."""
    waiting = run.steps.filter(status=StepStatus.WAITING).order_by("pk")
    step = waiting.select_for_update(skip_locked=True).first()
    if step is None:
        return False
    work = _works[run.work]
    before = work.model._default_manager.filter(pk=step.object_id).first()
    was = {} if before is None else dict(work.seen(before))
    doing = Doing(step.object_id, run.terms, step.terms, actor, run.reason, now)
    said: dict[str, Any] = {"action": work.action, "actor": actor, "reason": run.reason, "now": now}
    try:
        with transaction.atomic():
            row = work.do(doing)
    except OperationalError:
        raise
    except Exception as error:
        refusal = _in_words(error, step)
        step.status, step.told = StepStatus.REFUSED, refusal.detail[:500]
        if before is not None:
            audit.record_edit(before, before=was, after={**was, "refused": refusal.detail}, **said)
    else:
        step.status, step.told = StepStatus.DONE, str(row)[:500]
        step.result_model, step.result_id = row._meta.label_lower, row.pk
        same = isinstance(row, work.model)
        audit.record_edit(row, before=was if same else {}, after=work.seen(row), **said)
    reach("bulk.step")
    step.save()
    return True


def _in_words(error: Exception, step: BulkStep) -> DomainError:
    """Why a step was refused. What broke is in the log and nowhere else, and stops no other step."""
    if isinstance(error, DomainError):
        return error
    logger.error("a step of work in bulk broke", step_id=step.pk, run_id=step.run_id, exc_info=error)
    return Internal()


def steps_shown(run: BulkRun, *, most: int) -> Sequence[BulkStep]:
    """What was refused or stopped, and then what was done last, so many of each."""
    refused = run.steps.filter(status__in=(StepStatus.REFUSED, StepStatus.STOPPED)).order_by("pk")
    done = run.steps.filter(status=StepStatus.DONE).order_by("-pk")
    return [*refused[:most], *done[:most]]
