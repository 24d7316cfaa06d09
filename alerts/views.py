"""The routes of alerts: each calls one service or query and translates."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from alerts import queries, services
from alerts.filters import ORDERS, ChannelFilter, EventFilter, RuleFilter, WindowFilter, wants_rank
from alerts.models import AlertEvent, AlertRule, Channel, MaintenanceWindow
from alerts.serializers import (
    AcknowledgementSerializer,
    ChannelChangeSerializer,
    ChannelInputSerializer,
    ChannelSerializer,
    EventSerializer,
    NewChannelSerializer,
    RuleChangeSerializer,
    RuleInputSerializer,
    RuleSerializer,
    SilenceSerializer,
    WindowInputSerializer,
    WindowSerializer,
)
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.query import parse_bounded_int
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, READ_FLEET, WRITE, WRITE_FLEET, caller_of


class RuleViewSet(ApiViewSet):
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
        "end_silence": WRITE_FLEET,
    }

    def list(self, request: Request) -> Response:
        """All rules, newest first, with what each saw last and what its silence costs."""
        page = self.paginate_queryset(self.filter_queryset(queries.list_rules())) or []
        return self.get_paginated_response(_shown(page))

    def retrieve(self, request: Request, pk: str) -> Response:
        """One rule."""
        return Response(_shown([queries.get_rule(int(pk))])[0])

    @extend_schema(request=RuleInputSerializer, responses={201: RuleSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Add a rule."""
        rule = services.create_rule(**checked_body(RuleInputSerializer, request), now=timezone.now())
        return Response(_shown([rule])[0], status=201)

    @extend_schema(request=RuleChangeSerializer, responses=RuleSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a rule; one that is turned off resolves its incidents."""
        changes = checked_body(RuleChangeSerializer, request, partial=True)
        rule = services.update_rule(rule_id=int(pk), changes=changes, now=timezone.now())
        return Response(_shown([rule])[0])

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a rule that never fired."""
        services.delete_rule(rule_id=int(pk))
        return Response(status=204)

    @extend_schema(request=SilenceSerializer, responses=RuleSerializer)
    @action(detail=True, methods=["post"])
    @idempotent()
    def silence(self, request: Request, pk: str) -> Response:
        """Keep a rule quiet for a while, with a reason: its incidents are recorded, and nobody is told."""
        values = checked_body(SilenceSerializer, request)
        rule = services.silence_rule(rule_id=int(pk), **values, actor=caller_of(request).actor, now=timezone.now())
        return Response(_shown([rule])[0])

    @extend_schema(responses={200: RuleSerializer})
    @silence.mapping.delete
    def end_silence(self, request: Request, pk: str) -> Response:
        """End a silence now. Who silenced the rule, and why, stays on record."""
        return Response(_shown([services.end_silence(rule_id=int(pk), now=timezone.now())])[0])


class EventViewSet(ListModelMixin, ApiViewSet):
    """Incidents, newest first, or ranked by what they cost."""

    queryset = AlertEvent.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilter
    page_limit = (50, 100)
    access = {"list": READ, "acknowledge": WRITE}
    action_parameters = {"list": ("order",)}

    def get_queryset(self) -> QuerySet[Any]:
        """Those the caller may see."""
        if getattr(self, "swagger_fake_view", False):
            return AlertEvent.objects.none()
        return queries.list_events(tenant_id=caller_of(self.request).tenant_id)

    @extend_schema(parameters=[OpenApiParameter("order", str, enum=ORDERS, default="newest")])
    def list(self, request: Request) -> Response:
        """Newest first. With ``order=cost`` the ``limit`` costliest by the hour that fire come first; no pages."""
        if not wants_rank(request.query_params):
            return super().list(request)
        default, most = self.page_limit
        limit = parse_bounded_int(request.query_params.get("limit"), name="limit", default=default, low=1, high=most)
        events = queries.rank_by_cost(self.filter_queryset(self.get_queryset()))[:limit]
        return Response(EventSerializer(events, many=True).data)

    @extend_schema(request=None, responses=EventSerializer)
    @action(detail=True, methods=["post"])
    @idempotent()
    def acknowledge(self, request: Request, pk: str) -> Response:
        """Say that somebody has seen it. The body is empty."""
        checked_body(AcknowledgementSerializer, request)
        caller = caller_of(request)
        event = services.acknowledge_event(
            event_id=int(pk), actor=caller.actor, tenant_id=caller.tenant_id, now=timezone.now()
        )
        return Response(EventSerializer(event).data)


class ChannelViewSet(ListModelMixin, ApiViewSet):
    """Who is told. Targets are the operator's secrets, so admin keys alone come here."""

    queryset = Channel.objects.all()
    serializer_class = ChannelSerializer
    filterset_class = ChannelFilter
    access = {"list": ADMIN, "retrieve": ADMIN, "create": ADMIN, "partial_update": ADMIN, "destroy": ADMIN}

    def get_queryset(self) -> QuerySet[Channel]:
        """All channels."""
        return queries.list_channels()

    def retrieve(self, request: Request, pk: str) -> Response:
        """One channel."""
        return Response(ChannelSerializer(queries.get_channel(int(pk))).data)

    @extend_schema(request=ChannelInputSerializer, responses={201: NewChannelSerializer})
    @idempotent(secret_fields=("secret",))
    def create(self, request: Request) -> Response:
        """Add a channel. The answer holds its secret, this once. A target inside of our network is a 400."""
        channel = services.create_channel(**checked_body(ChannelInputSerializer, request), now=timezone.now())
        return Response(NewChannelSerializer(channel).data, status=201)

    @extend_schema(request=ChannelChangeSerializer, responses=ChannelSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a channel; its target is checked again."""
        changes = checked_body(ChannelChangeSerializer, request, partial=True)
        return Response(ChannelSerializer(services.update_channel(channel_id=int(pk), changes=changes)).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a channel that was never used."""
        services.delete_channel(channel_id=int(pk))
        return Response(status=204)


class WindowViewSet(ListModelMixin, ApiViewSet):
    """Maintenance windows: incidents of a cluster or a node are recorded, and nobody is told."""

    queryset = MaintenanceWindow.objects.all()
    serializer_class = WindowSerializer
    filterset_class = WindowFilter
    access = {"list": READ_FLEET, "create": WRITE_FLEET, "destroy": WRITE_FLEET}

    def get_queryset(self) -> QuerySet[MaintenanceWindow]:
        """All of them, past ones too."""
        return queries.list_windows()

    @extend_schema(request=WindowInputSerializer, responses={201: WindowSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Plan work on a cluster or a node."""
        values = checked_body(WindowInputSerializer, request)
        window = services.plan_maintenance(**values, actor=caller_of(request).actor, now=timezone.now())
        return Response(WindowSerializer(window).data, status=201)

    @extend_schema(responses={200: WindowSerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """End it now. Its row stays, and is the answer."""
        return Response(WindowSerializer(services.end_maintenance(window_id=int(pk), now=timezone.now())).data)


def _shown(rules: Sequence[AlertRule]) -> Any:
    costs = queries.silence_costs(rules, now=timezone.now())
    return RuleSerializer(rules, many=True, context={"silence_costs": costs}).data
