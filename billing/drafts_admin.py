"""From the question whose time to bill, over the preview of what each invoice would say, to the drafts."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminRadioSelectWidget,
)

from billing import services
from billing.models import Invoice
from billing.serializers import grouped_money, money
from gpufleet.common import bulk
from gpufleet.common.admin import ServiceAdmin, begin
from gpufleet.common.query import LARGEST_ID
from gpufleet.common.times import parse_instant
from tenants.models import Tenant

SHOWN_NAMES = 20
STRONG = "<strong>{}</strong>"
PREVIEW_HEADERS = ["Tenant", "GPU model", "GPU-hours billed", "Price of a GPU-hour", "Amount"]


def last_month(now: datetime) -> tuple[datetime, datetime]:
    """The whole month before this one, in UTC, half-open."""
    end = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (end - timedelta(days=1)).replace(day=1), end


def _draft_one(step: bulk.Doing) -> Invoice:
    """The draft that the preview showed, or none."""
    return services.create_invoice(
        tenant_id=step.object_id,
        start=parse_instant(step.terms["start"]),
        end=parse_instant(step.terms["end"]),
        created_by=step.actor,
        now=step.now,
        expected_total=Decimal(step.agreed),
    )


def _seen(row: Invoice | Tenant) -> dict[str, Any]:
    """Of a tenant nothing changes."""
    if isinstance(row, Tenant):
        return {}
    return {"tenant": row.tenant.name, "total": f"{money(row.total, row.currency)} {row.currency}"}


DRAFT = bulk.Work(
    name="billing.draft",
    words="Create invoices",
    outcome="with a draft now",
    model=Tenant,
    permission="billing.add_invoice",
    do=_draft_one,
    seen=_seen,
)
bulk.register(DRAFT)


class ManyIds(forms.HiddenInput):
    """Ids that were chosen before, as one hidden value: a form takes 1,000 fields, and there may be more tenants."""

    def format_value(self, value: Any) -> str:
        """Separated by commas."""
        return ",".join(map(str, value or []))

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str]:
        """Each of them."""
        return [item for item in str(data.get(name, "")).split(",") if item]


class DraftForm(forms.Form):
    """Whose unbilled time to bill, and of which days. Tenants that were ``chosen`` before are not asked for again."""

    tenants = forms.ModelMultipleChoiceField(Tenant.objects.all(), widget=UnfoldAdminCheckboxSelectMultipleWidget)
    window = forms.ChoiceField(
        choices=[("days", "The last days"), ("month", "Last month (UTC)")],
        widget=UnfoldAdminRadioSelectWidget,
        initial="days",
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=90,
        initial=30,
        help_text="How many, for the last days.",
        widget=UnfoldAdminIntegerFieldWidget,
    )

    def __init__(self, *args: Any, chosen: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if chosen:
            self.fields["tenants"].widget = ManyIds()

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """The window ``[from, to)`` that was asked for."""
        if self.cleaned_data["window"] == "month":
            return last_month(now)
        return now - timedelta(days=self.cleaned_data["days"]), now


class AgreedForm(forms.Form):
    """What the preview said, brought back with the consent: the window, and each tenant's total."""

    start = forms.CharField(widget=forms.HiddenInput)
    end = forms.CharField(widget=forms.HiddenInput)
    totals = forms.JSONField(widget=forms.HiddenInput)
    token = forms.UUIDField(widget=forms.HiddenInput)

    def clean_start(self) -> datetime:
        """The instant."""
        return self._instant("start")

    def clean_end(self) -> datetime:
        """The instant."""
        return self._instant("end")

    def clean_totals(self) -> dict[int, Decimal]:
        """By the tenant's id."""
        try:
            totals = {int(tenant_id): Decimal(total) for tenant_id, total in self.cleaned_data["totals"].items()}
        except (AttributeError, TypeError, ValueError, ArithmeticError):
            totals = {}
        if not totals or max(totals) > LARGEST_ID or not all(total.is_finite() for total in totals.values()):
            raise forms.ValidationError("These are not the totals of a preview.")
        return totals

    def _instant(self, name: str) -> datetime:
        try:
            return parse_instant(self.cleaned_data[name])
        except ValueError:
            raise forms.ValidationError("This is no instant.") from None


class DraftsAdmin(ServiceAdmin):
    """For the invoices' admin: adding is a question, a preview and an answer, each a page."""

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The question; then what it would bring; then, once that was agreed to, what it brought."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if "agreed" in request.POST:
            return self._draft(request, AgreedForm(request.POST))
        if request.method != "POST":
            return self._ask_whose(request, DraftForm())
        form = DraftForm(request.POST, chosen="chosen" in request.POST)
        return self._preview(request, form) if form.is_valid() else self._ask_whose(request, form)

    def ask_for_drafts(self, request: HttpRequest, tenants: Sequence[Tenant]) -> HttpResponse:
        """The question, with these tenants chosen."""
        form = DraftForm(chosen=True, initial={"tenants": [tenant.pk for tenant in tenants]})
        return self._ask_whose(request, form, tenants)

    def _ask_whose(self, request: HttpRequest, form: DraftForm, tenants: Sequence[Tenant] = ()) -> HttpResponse:
        names = ", ".join(tenant.name for tenant in tenants[:SHOWN_NAMES])
        more = f" and {len(tenants) - SHOWN_NAMES} more" if len(tenants) > SHOWN_NAMES else ""
        said = [f"Invoices for {names}{more}."] if tenants else []
        said.append("The next page shows what each invoice would say; nothing is made before that.")
        step = "chosen" if isinstance(form.fields["tenants"].widget, ManyIds) else "asked"
        return self._draft_page(request, "Create invoices", said, form=form, step=step, button="Preview")

    def _preview(self, request: HttpRequest, form: DraftForm) -> HttpResponse:
        now = timezone.now()
        start, end = form.bounds(now)
        tenants = list(form.cleaned_data["tenants"].order_by("name"))
        previews = services.preview_invoices(tenants, start=start, end=end, now=now)
        billable = {preview.tenant.pk: str(preview.total) for preview in previews if preview.lines}
        agreed = {"start": start.isoformat(), "end": end.isoformat(), "totals": billable, "token": uuid4()}
        window = f"{start:%Y-%m-%d %H:%M:%S} – {end:%Y-%m-%d %H:%M:%S} UTC"
        said = [f"Sold and priced GPU time that no invoice holds yet, {window}.", _together(previews)]
        return self._draft_page(
            request,
            "What the invoices would say",
            said,
            table={"headers": PREVIEW_HEADERS, "rows": [row for preview in previews for row in _rows(preview)]},
            form=AgreedForm(initial=agreed) if billable else None,
            step="agreed",
            button=f"Create {len(billable)} drafts" if len(billable) > 1 else "Create the draft",
        )

    def _draft(self, request: HttpRequest, form: AgreedForm) -> HttpResponse:
        if not form.is_valid():
            return self._draft_page(request, "Nothing was created", ["That was not what a preview had said."])
        agreed = form.cleaned_data
        totals: dict[int, Decimal] = agreed["totals"]
        names = dict(Tenant.objects.filter(pk__in=totals).values_list("pk", "name"))
        rows = {pk: bulk.Row(names.get(pk, f"Tenant {pk}"), str(total)) for pk, total in totals.items()}
        terms = {"start": agreed["start"].isoformat(), "end": agreed["end"].isoformat()}
        return begin(request, work=DRAFT.name, token=agreed["token"], rows=rows, terms=terms)

    def _draft_page(self, request: HttpRequest, title: str, said: list[str], **context: Any) -> HttpResponse:
        return TemplateResponse(
            request,
            "admin/billing/invoice/form.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "paragraphs": said,
                "action": reverse("admin:billing_invoice_add"),
                "back": reverse("admin:billing_invoice_changelist"),
                "back_label": "All invoices",
                **context,
            },
        )


def _together(previews: Sequence[services.Preview]) -> str:
    totals: dict[str, Decimal] = {}
    for preview in previews:
        if preview.lines:
            totals[preview.currency] = totals.get(preview.currency, Decimal(0)) + preview.total
    amounts = [f"{grouped_money(total, currency)} {currency}" for currency, total in sorted(totals.items())]
    return f"Together: {', '.join(amounts) or 'nothing to bill'}."


def _rows(preview: services.Preview) -> list[list[str]]:
    """The lines, and what they come to."""
    if not preview.lines:
        return [[preview.tenant.name, "Nothing to bill", "", "", ""]]
    rows = [
        [
            preview.tenant.name,
            line.gpu_model,
            _hours(line.price.billed_seconds),
            f"{line.terms.price_per_gpu_hour.normalize():f} {preview.currency}",
            f"{grouped_money(line.price.amount, preview.currency)} {preview.currency}",
        ]
        for line in preview.lines
    ]
    seconds = sum(line.price.billed_seconds for line in preview.lines)
    total = format_html(STRONG, f"{grouped_money(preview.total, preview.currency)} {preview.currency}")
    return [*rows, [preview.tenant.name, format_html(STRONG, "Total"), _hours(seconds), "", total]]


def _hours(seconds: int) -> str:
    return f"{seconds / Decimal(3600):,.4f}"
