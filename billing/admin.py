"""Rates, invoices and the outbox in the operator's console."""

from typing import Any

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing import services
from billing.models import (
    BilledRange,
    CreditNote,
    Invoice,
    InvoiceLine,
    OutboxMessage,
    Rate,
    StripeEvent,
)
from gpufleet.common.admin import ReadOnlyAdmin, ServiceAdmin, actor_of


@admin.register(Rate)
class RateAdmin(ServiceAdmin):
    """Rates are added here, never edited and never deleted."""

    fields = [
        "gpu_model",
        "price_per_gpu_hour",
        "currency",
        "plan_tier",
        "tenant",
        "minimum_seconds",
        "increment_seconds",
        "valid_from",
        "reason",
    ]
    list_display = ["gpu_model", "price_per_gpu_hour", "currency", "plan_tier", "tenant", "valid_from", "recorded_by"]
    list_filter = ["gpu_model", "plan_tier", "currency"]
    list_select_related = ["tenant"]
    search_fields = ["gpu_model", "tenant__name"]

    def get_fields(self, request: HttpRequest, obj: Rate | None = None) -> list[str]:
        """What a person says of a new rate; who recorded it and when, of one that is looked at."""
        return self.fields if obj is None else [*self.fields, "recorded_at", "recorded_by"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: another rate is added instead."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: allocations are locked to it."""
        return False

    def save_model(self, request: HttpRequest, obj: Rate, form: "ModelForm[Rate]", change: bool) -> None:
        """Through the service, as the API does."""
        values = dict(form.cleaned_data)
        tenant = values.pop("tenant")
        rate = services.add_rate(
            **values, tenant_id=tenant and tenant.pk, recorded_by=actor_of(request), now=timezone.now()
        )
        obj.pk = rate.pk


@admin.register(Invoice)
class InvoiceAdmin(ReadOnlyAdmin):
    """What tenants owe."""

    list_display = ["__str__", "tenant", "status", "total", "currency", "created_at", "due_at"]
    list_filter = ["status", "currency", "tenant"]
    list_select_related = ["tenant"]
    search_fields = ["number", "tenant__name"]


@admin.register(InvoiceLine)
class InvoiceLineAdmin(ReadOnlyAdmin):
    """GPU time of one model at one rate."""

    list_display = ["invoice", "gpu_model", "price_per_gpu_hour", "billed_seconds", "amount"]
    list_filter = ["gpu_model"]
    list_select_related = ["invoice"]


@admin.register(BilledRange)
class BilledRangeAdmin(ReadOnlyAdmin):
    """Which seconds of which allocation stand on which line."""

    list_display = ["allocation", "line", "during", "released_at"]
    list_select_related = ["allocation", "line"]
    show_full_result_count = False


@admin.register(CreditNote)
class CreditNoteAdmin(ReadOnlyAdmin):
    """Corrections of finalised invoices."""

    list_display = ["__str__", "invoice", "status", "amount", "reason", "created_at"]
    list_filter = ["status"]
    list_select_related = ["invoice"]


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    """What Stripe told us."""

    list_display = ["stripe_id", "type", "created_at", "received_at", "handled_at"]
    list_filter = ["type"]
    search_fields = ["stripe_id"]


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    """What Stripe must hear of."""

    list_display = ["__str__", "status", "attempts", "next_attempt_at", "last_error"]
    list_filter = ["status", "step"]
    list_select_related = ["invoice"]
