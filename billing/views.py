"""The routes of rates and invoices: each calls one service or query and translates."""

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from billing import queries, services
from billing.filters import RateFilter
from billing.models import Rate
from billing.serializers import RateInputSerializer, RateSerializer
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, caller_of


class RateViewSet(ListModelMixin, ApiViewSet):
    """Prices of a GPU-hour. A tenant-bound key sees list prices, its plan's and its own. Rates are never edited."""

    queryset = Rate.objects.none()
    serializer_class = RateSerializer
    filterset_class = RateFilter
    access = {"list": READ, "create": ADMIN}

    def get_queryset(self) -> QuerySet[Rate]:
        """What the caller may know of."""
        return queries.list_rates(caller_of(self.request))

    @extend_schema(request=RateInputSerializer, responses={201: RateSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Add a rate. It is in force from ``effective_from``; what runs keeps the price of its start."""
        values = checked_body(RateInputSerializer, request)
        rate = services.add_rate(**values, recorded_by=caller_of(request).actor, now=timezone.now())
        return Response(RateSerializer(rate).data, status=201)
