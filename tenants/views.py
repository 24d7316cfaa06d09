"""The routes of tenants: each calls one service or query and translates."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from tenants import queries, services
from tenants.filters import TenantFilter
from tenants.models import Tenant
from tenants.permissions import ADMIN, READ, caller_of
from tenants.serializers import TenantInputSerializer, TenantSerializer


class TenantViewSet(ApiViewSet):
    """Tenants. A tenant-bound key sees its own alone."""

    queryset = Tenant.objects.none()
    serializer_class = TenantSerializer
    filterset_class = TenantFilter
    access = {"list": READ, "retrieve": READ, "create": ADMIN, "partial_update": ADMIN, "destroy": ADMIN}

    def list(self, request: Request) -> Response:
        """All tenants, newest first, with what they hold and wait for."""
        rows: QuerySet[Tenant] = self.filter_queryset(queries.list_tenants(of_tenant=caller_of(request).tenant_id))
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(_shown(*page))

    def retrieve(self, request: Request, pk: str) -> Response:
        """One tenant."""
        tenant = queries.get_tenant(int(pk), of_tenant=caller_of(request).tenant_id)
        return Response(_shown(tenant)[0])

    @extend_schema(request=TenantInputSerializer, responses={201: TenantSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Add a tenant. A name that is taken is a 409."""
        values = checked_body(TenantInputSerializer, request)
        tenant = services.create_tenant(**values, now=timezone.now())
        return Response(_shown(tenant)[0], status=201)

    @extend_schema(request=TenantInputSerializer, responses=TenantSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a tenant. A lower quota evicts nobody; it stops new starts."""
        changes: Any = checked_body(TenantInputSerializer, request, partial=True)
        return Response(_shown(services.update_tenant(tenant_id=int(pk), changes=changes))[0])

    @extend_schema(
        responses={200: TenantSerializer, 204: None},
        description="204: nothing spoke of the tenant, and it is gone. 200: it has history (jobs, keys, rates or "
        "invoices), so it stays and is now inactive.",
    )
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a tenant, or make it inactive where it has history."""
        kept = services.delete_tenant(tenant_id=int(pk))
        return Response(status=204) if kept is None else Response(_shown(kept)[0])


def _shown(*tenants: Tenant) -> list[dict[str, Any]]:
    return [TenantSerializer(report).data for report in queries.describe(tenants)]
