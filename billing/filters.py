"""Filters of the lists of rates and invoices."""

from django_filters import rest_framework as filters

from billing.models import (
    CreditNote,
    CreditNoteStatus,
    Invoice,
    InvoiceStatus,
    NoteKind,
    NoteOrigin,
    Rate,
    ServiceLevel,
)
from gpufleet.common.query import IdFilter
from tenants.models import PlanTier


class RateFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    gpu_model = filters.CharFilter()
    plan_tier = filters.ChoiceFilter(choices=PlanTier.choices)
    tenant_id = IdFilter()
    currency = filters.CharFilter()

    class Meta:
        model = Rate
        fields = ["gpu_model", "plan_tier", "tenant_id", "currency"]


class InvoiceFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    tenant_id = IdFilter()
    status = filters.ChoiceFilter(choices=InvoiceStatus.choices)
    currency = filters.CharFilter()
    number = IdFilter()

    class Meta:
        model = Invoice
        fields = ["tenant_id", "status", "currency", "number"]


class CreditNoteFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    invoice_id = IdFilter()
    tenant_id = IdFilter(field_name="invoice__tenant_id")
    status = filters.ChoiceFilter(choices=CreditNoteStatus.choices)
    kind = filters.ChoiceFilter(choices=NoteKind.choices)
    origin = filters.ChoiceFilter(choices=NoteOrigin.choices)

    class Meta:
        model = CreditNote
        fields = ["invoice_id", "tenant_id", "status", "kind", "origin"]


class ServiceLevelFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    tenant_id = IdFilter()
    plan_tier = filters.ChoiceFilter(choices=PlanTier.choices)

    class Meta:
        model = ServiceLevel
        fields = ["tenant_id", "plan_tier"]
