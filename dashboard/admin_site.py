"""The operator's console: the admin with the fleet on its first page, and a sidebar by what people do."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.admin import site as default_site
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.templatetags.static import static
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from alerts.models import AlertEvent, EventStatus
from clusters.models import GPU
from dashboard import console, heatmap, money_pages, pages, queries, rows_pages
from dashboard.login import LockingForm
from dashboard.needs import needs_now
from dashboard.period import kept_last_day
from dashboard.queries import estimates_lately

# Group, then (model, icon of Material Symbols): the order is that of the work, not of the code.
SIDEBAR: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Fleet": (
        ("clusters.Cluster", "hub"),
        ("clusters.Node", "dns"),
        ("clusters.GPU", "memory"),
        ("clusters.GPUFault", "warning"),
        ("clusters.GPUStatePeriod", "history"),
        ("clusters.LatestReading", "speed"),
        ("clusters.NodeWatch", "hearing"),
    ),
    "Queue": (
        ("jobs.Job", "pending_actions"),
        ("jobs.Allocation", "lock_clock"),
        ("jobs.KindWait", "hourglass_empty"),
        ("jobs.WaitPeriod", "hourglass_bottom"),
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
        ("common.BulkRun", "checklist"),
        ("common.AuditEntry", "policy"),
        ("common.IdempotentResponse", "content_copy"),
    ),
}
# Where the plural of a model's name says too little.
TITLES = {
    "jobs.SchedulerCycle": "Last cycle",
    "alerts.RuleEvaluation": "What rules see",
    "common.AuditEntry": "Audit log",
}


class ConsoleSite(UnfoldAdminSite):  # type: ignore[misc]  # unfold is untyped
    """The admin site of the project. Its index is the fleet, refreshed in place every ten seconds."""

    index_template = "dashboard/home.html"
    index_title = "Overview"
    login_form = LockingForm
    login_template = "dashboard/login.html"

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With a password, by single sign-on, or either."""
        shown = {"sso_address": _sso_address(request), "password_login": settings.PASSWORD_LOGIN}
        response: HttpResponse = super().login(request, {**(extra_context or {}), **shown})
        return response

    def extra_urls(self) -> list[URLPattern]:
        """The parts of the home page that are refreshed, and the pages that are about no one model."""
        return [
            path("live/", self.live, name="live"),
            path("live/period/", self.live_period, name="live_period"),
            path("live/cluster/<int:cluster_id>/", self.live_cluster, name="live_cluster"),
            path("live/job/<int:job_id>/explanation/", self._watched(pages.jobs.explanation), name="live_explanation"),
            path("live/node/<int:node_id>/metrics/", self._watched(pages.nodes.metrics), name="live_metrics"),
            path("leakage/", self.admin_view(money_pages.leakage_page), name="leakage"),
            path("leakage/<slug:key>/", self.admin_view(rows_pages.rows_page), name="leakage_rows"),
            *sign_on_routes(),
            path("live/leakage/", self._watched(money_pages.figures), name="live_leakage"),
            path("live/leakage/<slug:key>/", self._watched(rows_pages.rows_part), name="live_leakage_rows"),
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Without the colours, which unfold writes into the page: they stand in the style sheet."""
        context: dict[str, Any] = super().each_context(request)
        return {**context, "colors": None}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The home page."""
        shown = {**live_parts(request), "clusters": clusters_of(request), "has_period": may_see_period(request)}
        response: HttpResponse = super().index(request, {**(extra_context or {}), **shown})
        return response

    def live(self, request: HttpRequest) -> HttpResponse:
        """What the fleet does now, and the sums of its clusters."""
        if not self.has_permission(request):
            return _to_login()
        parts = live_parts(request)
        clusters = heatmap.heat_map(parts["fleet"].report, folded=True) if parts["fleet"] else []
        return _fragment(request, "dashboard/live.html", {**parts, "clusters": clusters, "fragment": True})

    def live_period(self, request: HttpRequest) -> HttpResponse:
        """The figures over time."""
        if not self.has_permission(request):
            return _to_login()
        if not may_see_period(request):
            raise PermissionDenied
        return _fragment(request, "dashboard/period.html", period_of(request))

    def _watched(self, part: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """A part of a page that htmx fetches."""

        def fetch(request: HttpRequest, **kwargs: int | str) -> HttpResponse:
            if not self.has_permission(request):
                return _to_login()
            response = part(request, **kwargs)
            response.headers["Cache-Control"] = "no-store"
            return response

        return fetch

    def live_cluster(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        """The GPUs of one cluster."""
        if not self.has_permission(request):
            return _to_login()
        if not request.user.has_perm("clusters.view_gpu"):
            raise PermissionDenied
        groups = heatmap.grid(cluster_id, now=timezone.now())
        dense = sum(group.gpus for group in groups) >= heatmap.DENSE_FROM
        return _fragment(request, "dashboard/cells.html", {"groups": groups, "dense": dense})


def sign_on_routes() -> list[URLPattern]:
    """Those of single sign-on, where its library is installed; they are not there for anybody while it is not set."""
    if find_spec("mozilla_django_oidc") is None:
        return []
    from dashboard import single_sign_on

    return [
        path("sso/", single_sign_on.Leave.as_view(), name="sso"),
        path("sso/callback/", single_sign_on.Return.as_view(), name="sso_callback"),
    ]


def _sso_address(request: HttpRequest) -> str:
    """Where the button leads; it comes back to where the person wanted to go."""
    if not settings.SINGLE_SIGN_ON:
        return ""
    return f"{reverse('admin:sso')}?{urlencode({'next': request.GET.get('next', reverse('admin:index'))})}"


def live_parts(request: HttpRequest) -> dict[str, Any]:
    """What the home page shows this person of now: each part only to those who may see its rows."""
    now, may = timezone.now(), request.user.has_perm
    fleet = console.fleet_now(now=now) if may("clusters.view_gpu") else None
    needs = needs_now(may, now=now)
    return {
        "now": now,
        "fleet": fleet,
        "queue": console.queue_now(now=now) if may("jobs.view_job") else None,
        "estimates": estimates_lately(now=now) if may("jobs.view_startestimate") else None,
        "incidents": console.incidents_now() if may("alerts.view_alertevent") else None,
        "needs": needs,
        "alarm": any(need.urgent for need in needs),
        "steps": console.first_steps() if fleet is not None and not fleet.gpus else None,
        "period_shown": may("jobs.view_allocation"),
    }


def clusters_of(request: HttpRequest) -> list[heatmap.ClusterHeat]:
    """The heat map, for those who may see GPUs, and where there are any."""
    if not request.user.has_perm("clusters.view_gpu"):
        return []
    report = queries.fleet(now=timezone.now())
    return heatmap.heat_map(report) if report.total.gpus else []


def may_see_period(request: HttpRequest) -> bool:
    """Whoever may see the ledger, and where there are any GPUs."""
    return request.user.has_perm("jobs.view_allocation") and GPU.objects.exists()


def period_of(request: HttpRequest) -> dict[str, Any]:
    """The figures over time."""
    return {"period": kept_last_day(now=timezone.now()), "may_see_leakage": money_pages.may_see(request)}


def _fragment(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    return TemplateResponse(request, template, context, headers={"Cache-Control": "no-store"})


def _to_login() -> HttpResponse:
    """A visitor whose session has ended is sent to log in, not shown a login in a fragment."""
    login = f"{reverse('admin:login')}?next={reverse('admin:index')}"
    return HttpResponse(status=204, headers={"HX-Redirect": login})


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: the groups of models that this person may see."""
    overview = {"title": "Overview", "icon": "space_dashboard", "link": reverse("admin:index")}
    leakage = {"title": "Leakage", "icon": "water_drop", "link": reverse("admin:leakage")}
    docs = {"title": "API", "icon": "api", "link": reverse("docs")}
    groups: list[dict[str, Any]] = [{"items": [overview, *([leakage] if money_pages.may_see(request) else []), docs]}]
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


def script(request: HttpRequest) -> str:
    """Where its script is."""
    return static("dashboard/console.js")


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
