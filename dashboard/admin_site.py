"""The operator's console: the admin with the fleet on its first page, and a sidebar by what people do."""

from collections.abc import Mapping
from typing import Any

from django.contrib.admin import site as default_site
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.templatetags.static import static
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from alerts.models import AlertEvent, EventStatus
from dashboard import console

# Group, then (model, icon of Material Symbols): the order is that of the work, not of the code.
SIDEBAR: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Fleet": (
        ("clusters.Cluster", "hub"),
        ("clusters.Node", "dns"),
        ("clusters.GPU", "memory"),
        ("clusters.GPUStatePeriod", "history"),
        ("clusters.LatestReading", "speed"),
        ("clusters.NodeWatch", "hearing"),
    ),
    "Queue": (
        ("jobs.Job", "pending_actions"),
        ("jobs.Allocation", "lock_clock"),
        ("jobs.WaitPeriod", "hourglass_empty"),
        ("jobs.JobEvent", "receipt_long"),
        ("jobs.Run", "terminal"),
        ("jobs.SchedulerCycle", "autorenew"),
    ),
    "Money": (
        ("billing.Invoice", "request_quote"),
        ("billing.Rate", "sell"),
        ("billing.CreditNote", "undo"),
        ("billing.ServiceLevel", "verified"),
        ("billing.CreditedRange", "history_toggle_off"),
        ("billing.InvoiceEvent", "history_edu"),
        ("billing.InvoiceLine", "list_alt"),
        ("billing.BilledRange", "rule"),
        ("billing.OutboxMessage", "outbox"),
        ("billing.StripeEvent", "webhook"),
        ("billing.StripeDifference", "compare_arrows"),
        ("billing.StripeCustomer", "contact_mail"),
    ),
    "Alerts": (
        ("alerts.AlertEvent", "notifications_active"),
        ("alerts.AlertRule", "tune"),
        ("alerts.RuleEvaluation", "visibility"),
        ("alerts.Channel", "campaign"),
        ("alerts.MaintenanceWindow", "construction"),
        ("alerts.Delivery", "send"),
    ),
    "Access": (
        ("tenants.Tenant", "groups"),
        ("apikeys.ApiKey", "key"),
        ("auth.User", "person"),
        ("auth.Group", "shield_person"),
        ("common.IdempotentResponse", "content_copy"),
    ),
}
# Where the plural of a model's name says too little.
TITLES = {
    "clusters.NodeWatch": "Heartbeat watch",
    "jobs.SchedulerCycle": "Last cycle",
    "alerts.AlertEvent": "Incidents",
    "alerts.RuleEvaluation": "What rules see",
}


class ConsoleSite(UnfoldAdminSite):  # type: ignore[misc]  # unfold is untyped
    """The admin site of the project. Its index is the fleet, refreshed in place every ten seconds."""

    index_template = "dashboard/home.html"
    index_title = "Overview"

    def extra_urls(self) -> list[URLPattern]:
        """The part of the home page that is refreshed."""
        return [path("live/", self.live, name="live")]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The home page."""
        response: HttpResponse = super().index(request, {**(extra_context or {}), **home(request)})
        return response

    def live(self, request: HttpRequest) -> HttpResponse:
        """The figures alone. A visitor whose session has ended is sent to log in, not shown a login in a fragment."""
        if not self.has_permission(request):
            login = f"{reverse('admin:login')}?next={reverse('admin:index')}"
            return HttpResponse(status=204, headers={"HX-Redirect": login})
        return TemplateResponse(request, "dashboard/live.html", home(request), headers={"Cache-Control": "no-store"})


def home(request: HttpRequest) -> dict[str, Any]:
    """What the home page shows this person: each part only to those who may see its rows."""
    now, may = timezone.now(), request.user.has_perm
    fleet = console.fleet_now(now=now) if may("clusters.view_gpu") else None
    return {
        "now": now,
        "fleet": fleet,
        "queue": console.queue_now(now=now) if may("jobs.view_job") else None,
        "metered": console.metered_last_day(now=now) if may("jobs.view_allocation") else None,
        "incidents": console.incidents_now() if may("alerts.view_alertevent") else None,
        "steps": console.first_steps() if fleet is not None and not fleet.gpus else None,
    }


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: the groups of models that this person may see."""
    overview = {"title": "Overview", "icon": "space_dashboard", "link": reverse("admin:index")}
    docs = {"title": "API", "icon": "api", "link": reverse("docs")}
    groups: list[dict[str, Any]] = [{"items": [overview, docs]}]
    shown = {model._meta.label: model for model in default_site._registry}
    for title, entries in SIDEBAR.items():
        models = [(shown[label], icon) for label, icon in entries if label in shown]
        items = [_item(request, model, icon) for model, icon in models if _may_view(request, model)]
        if items:
            groups.append({"title": title, "separator": True, "items": items})
    return groups


def stylesheet(request: HttpRequest) -> str:
    """Where the console's own style sheet is."""
    return static("dashboard/console.css")


def favicon(request: HttpRequest) -> str:
    """Where the icon of its browser tab is."""
    return static("dashboard/favicon.svg")


def _may_view(request: HttpRequest, model: type[Any]) -> bool:
    return default_site._registry[model].has_view_permission(request)


def _item(request: HttpRequest, model: type[Any], icon: str) -> dict[str, Any]:
    meta = model._meta
    name = TITLES.get(meta.label, str(meta.verbose_name_plural))
    link = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
    item: dict[str, Any] = {"title": name[0].upper() + name[1:], "icon": icon, "link": link}
    firing = AlertEvent.objects.filter(status=EventStatus.FIRING).count() if model is AlertEvent else 0
    return {**item, "badge": firing, "badge_variant": "danger"} if firing else item
