"""The routes of alerts: each calls one service or query and translates."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from alerts import queries, services
from alerts.filters import EventFilter, RuleFilter
from alerts.models import AlertEvent, AlertRule
from alerts.serializers import (
    EventSerializer,
    RuleChangeSerializer,
    RuleInputSerializer,
    RuleSerializer,
    SilenceSerializer,
)
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, READ_FLEET, WRITE, WRITE_FLEET, caller_of


class RuleViewSet(ListModelMixin, ApiViewSet):
    """Alert rules. They are the operator's, so tenant-bound keys don't see them."""

    queryset = AlertRule.objects.all()
    serializer_class = RuleSerializer
    filterset_class = RuleFilter
    access = {
        "list": READ_FLEET,
        "retrieve": READ_FLEET,
        "create": ADMIN,
        "partial_update": ADMIN,
        "destroy": ADMIN,
        "silence": WRITE_FLEET,
    }

    def get_queryset(self) -> QuerySet[AlertRule]:
        """All rules."""
        return queries.list_rules()

    def retrieve(self, request: Request, pk: str) -> Response:
        """One rule."""
        return Response(RuleSerializer(queries.get_rule(int(pk))).data)

    @extend_schema(request=RuleInputSerializer, responses={201: RuleSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Add a rule."""
        rule = services.create_rule(**checked_body(RuleInputSerializer, request), now=timezone.now())
        return Response(RuleSerializer(rule).data, status=201)

    @extend_schema(request=RuleChangeSerializer, responses=RuleSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a rule; one that is turned off resolves its incidents."""
        changes = checked_body(RuleChangeSerializer, request, partial=True)
        rule = services.update_rule(rule_id=int(pk), changes=changes, now=timezone.now())
        return Response(RuleSerializer(rule).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a rule that never fired."""
        services.delete_rule(rule_id=int(pk))
        return Response(status=204)

    @extend_schema(request=SilenceSerializer, responses=RuleSerializer)
    @action(detail=True, methods=["post"])
    @idempotent()
    def silence(self, request: Request, pk: str) -> Response:
        """Keep a rule quiet for a while, with a reason."""
        values = checked_body(SilenceSerializer, request)
        rule = services.silence_rule(rule_id=int(pk), **values, actor=caller_of(request).actor, now=timezone.now())
        return Response(RuleSerializer(rule).data)


class EventViewSet(ListModelMixin, ApiViewSet):
    """Incidents, newest first."""

    queryset = AlertEvent.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilter
    page_limit = (50, 100)
    access = {"list": READ, "acknowledge": WRITE}

    def get_queryset(self) -> QuerySet[Any]:
        """Those the caller may see."""
        if getattr(self, "swagger_fake_view", False):
            return AlertEvent.objects.none()
        return queries.list_events(tenant_id=caller_of(self.request).tenant_id)

    @extend_schema(request=None, responses=EventSerializer)
    @action(detail=True, methods=["post"])
    @idempotent()
    def acknowledge(self, request: Request, pk: str) -> Response:
        """Say that somebody has seen it."""
        caller = caller_of(request)
        event = services.acknowledge_event(
            event_id=int(pk), actor=caller.actor, tenant_id=caller.tenant_id, now=timezone.now()
        )
        return Response(EventSerializer(event).data)
