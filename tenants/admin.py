"""Tenants in the operator's console."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.forms import ChoiceField, ModelForm
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget

from gpufleet.common.admin import ServiceAdmin
from gpufleet.common.currencies import CURRENCIES
from tenants import services
from tenants.models import Tenant
from tenants.queries import describe


class TenantForm(ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """What a person says of a tenant."""

    currency = ChoiceField(
        choices=[(code, code) for code in sorted(CURRENCIES)],
        initial="USD",
        widget=UnfoldAdminSelectWidget,
        help_text="For what starts from now on.",
    )

    class Meta:
        model = Tenant
        fields = [
            "name",
            "gpu_quota",
            "plan_tier",
            "status",
            "currency",
            "contact_email",
            "billing_address",
            "tax_id",
            "lends_idle_quota",
            "borrow_limit",
        ]


@admin.register(Tenant)
class TenantAdmin(ServiceAdmin):
    """Tenants are made inactive here, by their status, and never deleted."""

    form = TenantForm
    list_display = ["name", "plan_tier", "gpu_quota", "in_use", "queued", "shown_status", "contact_email", "created_at"]
    list_filter = ["status", "plan_tier"]
    search_fields = ["name", "contact_email"]

    @display(description="Status", ordering="status", label={"active": "success", "inactive": "warning"})  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, tenant: Tenant) -> str:
        """The status as a coloured word."""
        return tenant.status

    def described(self, rows: Sequence[Tenant]) -> list[Tenant]:
        """With what each does now."""
        reports = describe(rows)
        for report in reports:
            report.tenant.report = report  # type: ignore[attr-defined]  # for the columns below
        return [report.tenant for report in reports]

    @admin.display(description="GPUs in use")
    def in_use(self, tenant: Any) -> str:
        """And what part of the quota they are."""
        return f"{tenant.report.workload.gpus_in_use} ({tenant.report.quota_used_pct:g} %)"

    @admin.display(description="Jobs that wait")
    def queued(self, tenant: Any) -> int:
        """In the queue now."""
        return int(tenant.report.workload.queued_jobs)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger speaks of tenants."""
        return False

    def save_model(self, request: HttpRequest, obj: Tenant, form: "ModelForm[Tenant]", change: bool) -> None:
        """Through the services, as the API does."""
        values = form.cleaned_data
        if change:
            services.update_tenant(tenant_id=obj.pk, changes=values)  # type: ignore[arg-type]  # the form's fields
        else:
            obj.pk = services.create_tenant(**values, now=timezone.now()).pk
