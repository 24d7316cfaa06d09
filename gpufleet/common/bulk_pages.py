"""Work in bulk in the console: its start, and the part of a page that says how far it has come."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from gpufleet.common import bulk
from gpufleet.common.errors import DomainError
from gpufleet.common.models import BulkRun, BulkStep, StepStatus
from gpufleet.common.panels import Panel, panel_on
from gpufleet.common.senders import person_of

SHOWN_STEPS = 100


def begin(
    request: HttpRequest,
    *,
    work: str,
    token: UUID,
    rows: Mapping[int, bulk.Row],
    terms: Mapping[str, Any] | None = None,
    reason: str = "",
) -> HttpResponse:
    """Start work in bulk, or find what this page has started before, and lead to its page; of one row, to the row's."""
    actor, now = person_of(request), timezone.now()
    agreed: dict[str, Any] = {"work": work, "token": token, "rows": rows, "terms": terms or {}, "reason": reason}
    try:
        run, new = bulk.start_run(**agreed, actor=actor, now=now)
    except DomainError as refusal:
        messages.error(request, refusal.detail)
        return redirect("admin:common_bulkrun_changelist")
    if new:
        bulk.carry_on(run, actor=actor, now=now)
    first, *others = run.steps.order_by("pk")[:2]
    if first.status == StepStatus.DONE and not others:
        messages.success(request, said(run, bulk.counts_of(run)))
        return redirect(row_page(first.result_model, first.result_id))
    return redirect(row_page("common.bulkrun", run.pk) + ("" if run.finished_at else "?go=1"))


def said(run: BulkRun, counts: bulk.Counts) -> str:
    """How far it has come, in a sentence."""
    work = bulk.work_of(run)
    meta = work.model._meta
    noun = meta.verbose_name if counts.total == 1 else meta.verbose_name_plural
    return f"{counts.done} of {counts.total} {noun} {work.outcome}."


def row_page(model: str, pk: int | None) -> str:
    """The page of a row, by its model's label."""
    app, name = model.split(".")
    return reverse(f"admin:{app}_{name}_change", args=[pk])


def progress_of(request: HttpRequest, run: BulkRun, *, going: bool) -> dict[str, Any]:
    """What the part of the page shows. Only who may do the work carries it on."""
    work, counts = bulk.work_of(run), bulk.counts_of(run)
    may = run.finished_at is None and request.user.has_perm(work.permission)
    meta = work.model._meta
    steps = [
        (step, row_page(meta.label_lower, step.object_id), row_page(*_result(step, meta.label_lower)))
        for step in bulk.steps_shown(run, most=SHOWN_STEPS)
    ]
    made = apps.get_model(steps[-1][0].result_model or meta.label_lower)._meta if steps else meta
    return {
        "run": run,
        "words": work.words,
        "said": said(run, counts),
        "counts": counts,
        "gone": counts.total - counts.left,
        "may": may,
        "going": going and may,
        "steps": steps,
        "most": SHOWN_STEPS,
        "list": reverse(f"admin:{made.app_label}_{made.model_name}_changelist"),
        "list_name": made.verbose_name_plural,
    }


def _result(step: BulkStep, model: str) -> tuple[str, int]:
    return (step.result_model, step.result_id) if step.result_id is not None else (model, step.object_id)


@panel_on(BulkRun)
def bulk_panel(request: HttpRequest, run: BulkRun) -> Panel:
    """On a run's page, with a button to carry on; it goes on by itself for whoever comes from the consent."""
    return Panel("admin/bulk.html", progress_of(request, run, going="go" in request.GET))
