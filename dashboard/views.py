"""The routes of the dashboard: figures over the whole fleet, so not for tenant-bound keys."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from django.http import QueryDict
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.queries import DEFAULT_CURRENCY, minor_unit_of
from dashboard import queries
from dashboard.estimate_serializers import EstimatesSerializer, shown_estimates
from dashboard.serializers import (
    FleetSerializer,
    KpisSerializer,
    LeakageSerializer,
    RevenueSerializer,
    shown_fleet,
    shown_kpis,
    shown_leakage,
    shown_revenue,
)
from gpufleet.common.api import ApiViewSet
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.query import parse_bounded_int, parse_days
from tenants.permissions import READ_FLEET

Report = TypeVar("Report")

DAYS = OpenApiParameter("days", {"type": "integer", "minimum": 1, "maximum": 90, "default": 30})
WINDOW = [
    DAYS,
    OpenApiParameter("currency", str, description="ISO 4217; USD when absent."),
]

UNDERUSED = OpenApiParameter(
    "underused_below_pct",
    {"type": "integer", "minimum": 1, "maximum": 100, "default": queries.UNDERUSED_BELOW_PCT},
    description="A held GPU that is used less than this on average is called reclaimable.",
)


class DashboardViewSet(ApiViewSet):
    """The last days of the fleet, up to now."""

    pagination_class = None
    access = {
        "kpis": READ_FLEET,
        "fleet": READ_FLEET,
        "revenue": READ_FLEET,
        "leakage": READ_FLEET,
        "estimates": READ_FLEET,
    }
    action_parameters = {
        "kpis": ("days", "currency"),
        "revenue": ("days", "currency"),
        "leakage": ("days", "currency", "underused_below_pct"),
        "estimates": ("days",),
    }

    @extend_schema(responses=KpisSerializer, parameters=WINDOW)
    @action(detail=False)
    def kpis(self, request: Request) -> Response:
        """Fleet size, shares of the time, revenue, leakage, and the queue's waits."""
        return Response(shown_kpis(_over_window(queries.kpis, request.query_params)))

    @extend_schema(responses=FleetSerializer)
    @action(detail=False)
    def fleet(self, request: Request) -> Response:
        """By cluster, node and model: what the GPUs do now, and how busy they are."""
        return Response(shown_fleet(queries.fleet(now=timezone.now())))

    @extend_schema(responses=RevenueSerializer, parameters=WINDOW)
    @action(detail=False)
    def revenue(self, request: Request) -> Response:
        """Metered time by day, tenant and model, and what of it is billed."""
        return Response(shown_revenue(_over_window(queries.revenue, request.query_params)))

    @extend_schema(responses=LeakageSerializer, parameters=[*WINDOW, UNDERUSED])
    @action(detail=False)
    def leakage(self, request: Request) -> Response:
        """Every unsold GPU-second by cause, priced, with the rows behind it and what to do."""
        below = parse_bounded_int(
            request.query_params.get("underused_below_pct"),
            name="underused_below_pct",
            default=queries.UNDERUSED_BELOW_PCT,
            low=1,
            high=100,
        )
        report = partial(queries.leakage, underused_below_pct=below)
        return Response(shown_leakage(_over_window(report, request.query_params)))

    @extend_schema(responses=EstimatesSerializer, parameters=[DAYS])
    @action(detail=False)
    def estimates(self, request: Request) -> Response:
        """How far start estimates were from what happened, and how often they held."""
        now = timezone.now()
        start = now - timedelta(days=parse_days(request.query_params))
        return Response(shown_estimates(queries.estimates(start=start, end=now)))


def _over_window(query: Callable[..., Report], params: QueryDict) -> Report:
    """Ask a query about the last ``days``. Raises ``InvalidInput`` for a parameter that is none."""
    now = timezone.now()
    currency = _parse_currency(params)
    return query(currency, start=now - timedelta(days=parse_days(params)), end=now)


def _parse_currency(params: QueryDict) -> str:
    currency: Any = params.get("currency", DEFAULT_CURRENCY)
    try:
        minor_unit_of(currency)
    except KeyError as error:
        detail = f"{currency!r} is not a currency code of ISO 4217, such as USD."
        raise InvalidInput(FieldProblem("?currency", "unknown_currency", detail)) from error
    return str(currency)
