"""The routes of credit and debit notes and of service-level rules: each calls one service or query and translates."""

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from billing import queries, services
from billing.credit_serializers import (
    CreditNoteDetailSerializer,
    CreditNoteSerializer,
    DecisionInputSerializer,
    ServiceLevelInputSerializer,
    ServiceLevelSerializer,
    ServiceLevelSwitchSerializer,
)
from billing.filters import CreditNoteFilter, ServiceLevelFilter
from billing.models import CreditNote, ServiceLevel
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, caller_of


class CreditNoteViewSet(ListModelMixin, ApiViewSet):
    """Credit and debit notes. A tenant-bound key sees its own that are issued."""

    queryset = CreditNote.objects.none()
    serializer_class = CreditNoteSerializer
    filterset_class = CreditNoteFilter
    access = {"list": READ, "retrieve": READ, "set_status": ADMIN}

    def get_queryset(self) -> QuerySet[CreditNote]:
        """What the caller may know of."""
        return queries.list_credit_notes(caller_of(self.request)).select_related("invoice")

    @extend_schema(responses=CreditNoteDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        """One note with its evidence."""
        return Response(CreditNoteDetailSerializer(queries.get_credit_note(int(pk), caller_of(request))).data)

    @extend_schema(request=DecisionInputSerializer, responses=CreditNoteDetailSerializer)
    @action(detail=True, methods=["patch"], url_path="status")
    def set_status(self, request: Request, pk: str) -> Response:
        """Issue or decline a draft. An issued one has a number and counts; one is declined for a reason."""
        values = checked_body(DecisionInputSerializer, request)
        note = services.decide_credit_note(
            credit_note_id=int(pk),
            to=values["status"],
            reason=values.get("reason", ""),
            actor=caller_of(request).actor,
            now=timezone.now(),
        )
        return Response(CreditNoteDetailSerializer(note).data)


class ServiceLevelViewSet(ListModelMixin, ApiViewSet):
    """Service-level rules. A tenant-bound key sees everybody's, its plan's and its own. Terms are never edited."""

    queryset = ServiceLevel.objects.none()
    serializer_class = ServiceLevelSerializer
    filterset_class = ServiceLevelFilter
    access = {"list": READ, "create": ADMIN, "partial_update": ADMIN}

    def get_queryset(self) -> QuerySet[ServiceLevel]:
        """What the caller may know of."""
        return queries.list_service_levels(caller_of(self.request))

    @extend_schema(request=ServiceLevelInputSerializer, responses={201: ServiceLevelSerializer})
    @idempotent()
    def create(self, request: Request) -> Response:
        """Add a rule. Every hour it turns faults that touched billed time into draft credit notes."""
        values = checked_body(ServiceLevelInputSerializer, request)
        rule = services.add_service_level(**values, created_by=caller_of(request).actor, now=timezone.now())
        return Response(ServiceLevelSerializer(rule).data, status=201)

    @extend_schema(request=ServiceLevelSwitchSerializer, responses=ServiceLevelSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Turn a rule on or off. What it raised stays."""
        values = checked_body(ServiceLevelSwitchSerializer, request)
        rule = services.switch_service_level(service_level_id=int(pk), **values, actor=caller_of(request).actor)
        return Response(ServiceLevelSerializer(rule).data)
