"""The routes of rates and invoices: each calls one service or query and translates."""

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from billing import figures, queries, services
from billing.filters import InvoiceFilter, RateFilter
from billing.models import Invoice, Rate
from billing.paper import pdf_response
from billing.proofs import proof_of
from billing.serializers import (
    InvoiceDetailSerializer,
    InvoiceInputSerializer,
    InvoiceLineSerializer,
    InvoiceSerializer,
    InvoiceStatusInputSerializer,
    PreviewSerializer,
    ProofSerializer,
    RateInputSerializer,
    RateSerializer,
    SummarySerializer,
    UsageSerializer,
    proof_csv,
    shown_preview,
    shown_summary,
    shown_usage,
)
from gpufleet.common.api import ApiViewSet
from gpufleet.common.currencies import CURRENCIES
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.idempotency import idempotent
from gpufleet.common.query import parse_days
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, caller_of
from tenants.queries import get_tenant

DAYS = OpenApiParameter("days", {"type": "integer", "minimum": 1, "maximum": 90, "default": 30})


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
        """Add a rate. It is in force from ``effective_from``; what runs keeps the price of its start, and what a past
        date changes on finalised invoices becomes draft credit or debit notes."""
        values = checked_body(RateInputSerializer, request)
        rate = services.add_rate(**values, recorded_by=caller_of(request).actor, now=timezone.now())
        return Response(RateSerializer(rate).data, status=201)


class InvoiceViewSet(ApiViewSet):
    """Invoices. A tenant-bound key sees its own alone."""

    queryset = Invoice.objects.none()
    serializer_class = InvoiceSerializer
    filterset_class = InvoiceFilter
    action_parameters = {"create": ("days",), "proof": ("format",)}
    access = {
        "list": READ,
        "retrieve": READ,
        "lines": READ,
        "proof": READ,
        "pdf": READ,
        "create": ADMIN,
        "set_status": ADMIN,
    }

    def list(self, request: Request) -> Response:
        """All invoices, newest first, with what was credited on them."""
        rows: QuerySet[Invoice] = self.filter_queryset(queries.list_invoices(caller_of(request)))
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(InvoiceSerializer(queries.describe_invoices(page), many=True).data)

    @extend_schema(responses=InvoiceDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        """One invoice with its lines and credit notes."""
        return Response(_shown(queries.get_invoice(int(pk), caller_of(request))))

    @extend_schema(request=InvoiceInputSerializer, responses={201: InvoiceDetailSerializer}, parameters=[DAYS])
    @idempotent()
    def create(self, request: Request) -> Response:
        """Draft an invoice of every GPU-second of the last days that no invoice holds yet; 409 when there is none."""
        now = timezone.now()
        start = now - timedelta(days=parse_days(request.query_params))
        values = checked_body(InvoiceInputSerializer, request)
        invoice = services.create_invoice(**values, start=start, end=now, created_by=caller_of(request).actor, now=now)
        return Response(_shown(invoice), status=201)

    @extend_schema(responses=InvoiceLineSerializer(many=True), filters=False)
    @action(detail=True, pagination_class=None)
    def lines(self, request: Request, pk: str) -> Response:
        """The invoice's lines, in their order, all of them."""
        invoice = queries.get_invoice(int(pk), caller_of(request))
        return Response(InvoiceLineSerializer(invoice.lines.select_related("invoice"), many=True).data)

    @extend_schema(
        responses={(200, "application/json"): ProofSerializer, (200, "text/csv"): OpenApiTypes.STR},
        parameters=[OpenApiParameter("format", str, enum=["json", "csv"])],
        filters=False,
    )
    @action(detail=True, pagination_class=None)
    def proof(self, request: Request, pk: str) -> Response | HttpResponse:
        """Every allocation behind every line, to the second, as JSON or CSV, with the digest of its issue and now."""
        wanted = _proof_format(request)
        proof = proof_of(queries.get_invoice(int(pk), caller_of(request)))
        if wanted == "json":
            return Response(ProofSerializer(proof).data)
        name = f'attachment; filename="invoice-{proof.invoice.pk}-proof.csv"'
        return HttpResponse(
            proof_csv(proof), content_type="text/csv; charset=utf-8", headers={"Content-Disposition": name}
        )

    @extend_schema(responses={(200, "application/pdf"): OpenApiTypes.BINARY}, filters=False)
    @action(detail=True, pagination_class=None)
    def pdf(self, request: Request, pk: str) -> HttpResponse:
        """The invoice on paper. A draft and a void invoice are marked as such."""
        invoice = queries.get_invoice(int(pk), caller_of(request))
        return pdf_response(queries.describe_invoices([invoice])[0])

    @extend_schema(request=InvoiceStatusInputSerializer, responses=InvoiceDetailSerializer)
    @action(detail=True, methods=["patch"], url_path="status")
    def set_status(self, request: Request, pk: str) -> Response:
        """Finalise, settle or void. A finalised invoice never changes; corrections are credit notes."""
        values = checked_body(InvoiceStatusInputSerializer, request)
        moved = services.move_invoice(
            invoice_id=int(pk),
            to=values["status"],
            reason=values.get("reason", ""),
            actor=caller_of(request).actor,
            now=timezone.now(),
        )
        return Response(_shown(moved))


class SummaryViewSet(ApiViewSet):
    """What the last days earned. A tenant-bound key sees its own figures alone."""

    serializer_class = SummarySerializer
    pagination_class = None
    access = {"summary": READ}
    action_parameters = {"summary": ("days", "currency")}

    @extend_schema(responses=SummarySerializer, parameters=[DAYS, OpenApiParameter("currency", str)])
    @action(detail=False)
    def summary(self, request: Request) -> Response:
        """Billed, paid, open, overdue and unbilled so far, in one currency; by tenant and by model."""
        now = timezone.now()
        start = now - timedelta(days=parse_days(request.query_params))
        currency = request.query_params.get("currency")
        if currency is not None and currency not in CURRENCIES:
            detail = f"{currency!r} is not a currency code of ISO 4217, such as USD."
            raise InvalidInput(FieldProblem("?currency", "unknown_currency", detail))
        summary = figures.summarise(caller_of(request), start=start, end=now, currency=currency)
        return Response(shown_summary(summary))


class UsageViewSet(ApiViewSet):
    """What a tenant used. A tenant-bound key sees its own alone."""

    serializer_class = UsageSerializer
    pagination_class = None
    access = {"usage": READ, "invoice_preview": READ}
    action_parameters = {"usage": ("days",), "invoice_preview": ("days",)}

    @extend_schema(responses=UsageSerializer, parameters=[DAYS])
    @action(detail=True)
    def usage(self, request: Request, pk: str) -> Response:
        """GPU-seconds, cost and jobs of the last days: in total, by UTC day and by GPU model."""
        now = timezone.now()
        start = now - timedelta(days=parse_days(request.query_params))
        return Response(shown_usage(queries.usage_of(int(pk), caller_of(request), start=start, end=now)))

    @extend_schema(responses=PreviewSerializer, parameters=[DAYS])
    @action(detail=True, url_path="invoice-preview")
    def invoice_preview(self, request: Request, pk: str) -> Response:
        """What an invoice of the last days would say if it were made now; 409 when there is nothing to bill."""
        now = timezone.now()
        start = now - timedelta(days=parse_days(request.query_params))
        tenant = get_tenant(int(pk), of_tenant=caller_of(request).tenant_id)
        return Response(shown_preview(services.preview_invoice(tenant, start=start, end=now, now=now)))


def _shown(invoice: Invoice) -> dict[str, Any]:
    return InvoiceDetailSerializer(queries.describe_invoices([invoice])[0]).data


def _proof_format(request: Request) -> str:
    wanted = request.query_params.get("format", "json")
    if wanted not in ("json", "csv"):
        raise InvalidInput(FieldProblem("?format", "invalid_choice", "format is json or csv."))
    return wanted
