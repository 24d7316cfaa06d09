"""A tenant's page: quota against use, use by day, rates in force, invoices and keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from apikeys.models import ApiKey
from billing.models import Invoice
from billing.queries import InvoiceReport, RateInForce, Usage, Used, describe_invoices, rates_in_force, usage_of
from clusters.models import GPU
from dashboard import plots
from dashboard.pages.nodes import WHOLE_FLEET
from gpufleet.common.panels import Panel, panel_on
from tenants.models import Tenant
from tenants.queries import TenantReport, describe

DAYS_SHOWN = 30
INVOICES_SHOWN = 12
KEYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class TenantPanel:
    """Each part only for those who may see its rows; None: not this person."""

    tenant: Tenant
    report: TenantReport
    quota: SafeString
    usage: Usage | None
    days: SafeString | None
    most: Decimal
    rates: Sequence[tuple[str, RateInForce]] | None
    invoices: Sequence[InvoiceReport] | None
    keys: Sequence[ApiKey] | None


@panel_on(Tenant)
def tenant_panel(request: HttpRequest, tenant: Tenant) -> Panel:
    """A fixed number of queries."""
    now, may = timezone.now(), request.user.has_perm
    (report,) = describe([tenant])
    usage = _usage(tenant, now) if may("jobs.view_allocation") else None
    hours = [used.gpu_seconds / 3600 for used in usage.by_day.values()] if usage else []
    shown = TenantPanel(
        tenant,
        report,
        _quota(report),
        usage,
        _days(usage) if usage else None,
        max(hours, default=Decimal(0)),
        _rates(tenant, now) if may("billing.view_rate") else None,
        _invoices(tenant) if may("billing.view_invoice") else None,
        list(ApiKey.objects.filter(tenant=tenant).order_by("-pk")[:KEYS_SHOWN]) if may("apikeys.view_apikey") else None,
    )
    return Panel("dashboard/pages/tenant.html", shown)


def _usage(tenant: Tenant, now: datetime) -> Usage:
    start = datetime.combine(now.date() - timedelta(days=DAYS_SHOWN - 1), time.min, UTC)
    return usage_of(tenant.pk, WHOLE_FLEET, start=start, end=now)


def _quota(report: TenantReport) -> SafeString:
    used, quota = report.workload.gpus_in_use, report.tenant.gpu_quota
    pieces = [
        plots.Piece("gf-fill-sold", min(used, quota), f"{used} GPUs in use"),
        plots.Piece("gf-fill-unhealthy", max(0, used - quota), f"{used - quota} above the quota"),
        plots.Piece("gf-fill-idle", max(0, quota - used), f"{quota - used} free"),
    ]
    return plots.stack(pieces, f"{used} of {quota} GPUs in use")


def _days(usage: Usage) -> SafeString:
    columns = []
    for number in range(DAYS_SHOWN):
        day = usage.start.date() + timedelta(days=number)
        used = usage.by_day.get(day, Used(Decimal(0), Decimal(0)))
        said = f"{day}: {used.gpu_seconds / 3600:,.1f} GPU-hours, {usage.tenant.currency} {used.cost:,}"
        columns.append([plots.Piece("gf-earned", float(used.gpu_seconds), said)])
    return plots.bars(columns, "GPU-hours by day")


def _rates(tenant: Tenant, now: datetime) -> list[tuple[str, RateInForce]]:
    models = GPU.objects.filter(retired_at__isnull=True).order_by("model").values_list("model", flat=True).distinct()
    rates = rates_in_force([(tenant.pk, model) for model in models], now=now)
    return [(model, rate) for (_, model), rate in sorted(rates.items(), key=lambda item: item[0][1])]


def _invoices(tenant: Tenant) -> list[InvoiceReport]:
    return describe_invoices(Invoice.objects.filter(tenant=tenant).order_by("-pk")[:INVOICES_SHOWN])
