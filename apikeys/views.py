"""The routes of keys: each calls one service or query and translates."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import queries, services
from apikeys.filters import KeyFilter
from apikeys.models import ApiKey, default_permissions
from apikeys.serializers import IssuedKeySerializer, KeyInputSerializer, KeySerializer
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, caller_of


class KeyViewSet(ListModelMixin, ApiViewSet):
    """API keys, revoked ones too. Only admin keys come here, and those are never a tenant's or a cluster's."""

    queryset = ApiKey.objects.none()
    serializer_class = KeySerializer
    filterset_class = KeyFilter
    access = {"list": ADMIN, "create": ADMIN, "destroy": ADMIN}

    def get_queryset(self) -> QuerySet[ApiKey]:
        """All of them: the list is also the audit."""
        return queries.list_keys()

    @extend_schema(request=KeyInputSerializer, responses={201: IssuedKeySerializer})
    @idempotent(secret_fields=("key",))
    def create(self, request: Request) -> Response:
        """Make a key. The raw key is in this one answer and stored nowhere."""
        wanted: dict[str, Any] = {"permissions": default_permissions(), **checked_body(KeyInputSerializer, request)}
        issued = services.issue_key(**wanted, created_by=caller_of(request).actor, now=timezone.now())
        return Response(IssuedKeySerializer(issued).data, status=201)

    @extend_schema(responses={200: KeySerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """Revoke a key, from the next request on. Its row stays, and is the answer."""
        return Response(KeySerializer(services.revoke_key(key_id=int(pk), now=timezone.now())).data)
