"""Shapes of tenants on the wire."""

from typing import Any

from rest_framework import serializers

from gpufleet.common.serializers import StrictSerializer
from tenants.models import PlanTier, TenantStatus

LARGEST_QUOTA = 2**31 - 1


class TenantInputSerializer(StrictSerializer):
    """A new tenant, or with ``partial`` the changes to one."""

    name = serializers.CharField(max_length=200)
    gpu_quota = serializers.IntegerField(min_value=1, max_value=LARGEST_QUOTA)
    contact_email = serializers.EmailField(max_length=254, allow_blank=True, required=False)
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, required=False)
    status = serializers.ChoiceField(choices=TenantStatus.choices, required=False)
    currency = serializers.CharField(
        min_length=3, max_length=3, required=False, help_text="ISO 4217. Default: USD. For what starts from now on."
    )
    billing_address = serializers.CharField(
        max_length=500, allow_blank=True, required=False, help_text="As it stands on invoices, line by line."
    )
    tax_id = serializers.CharField(max_length=50, allow_blank=True, required=False, help_text="Such as a VAT number.")
    lends_idle_quota = serializers.BooleanField(
        required=False, help_text="Others may use what it leaves idle of its quota, until its own jobs need it."
    )
    borrow_limit = serializers.IntegerField(
        min_value=0,
        max_value=LARGEST_QUOTA,
        required=False,
        help_text="GPUs above its own quota that it may hold while others lend, on clusters with preemption.",
    )


class TenantSerializer(serializers.Serializer[Any]):
    """A tenant as it is shown, made of a ``TenantReport``."""

    id = serializers.IntegerField(source="tenant.pk")
    name = serializers.CharField(source="tenant.name")
    gpu_quota = serializers.IntegerField(source="tenant.gpu_quota")
    contact_email = serializers.CharField(source="tenant.contact_email", allow_blank=True)
    plan_tier = serializers.ChoiceField(source="tenant.plan_tier", choices=PlanTier.choices)
    status = serializers.ChoiceField(source="tenant.status", choices=TenantStatus.choices)
    currency = serializers.CharField(source="tenant.currency", help_text="ISO 4217.")
    billing_address = serializers.CharField(source="tenant.billing_address", allow_blank=True)
    tax_id = serializers.CharField(source="tenant.tax_id", allow_blank=True)
    lends_idle_quota = serializers.BooleanField(source="tenant.lends_idle_quota")
    borrow_limit = serializers.IntegerField(source="tenant.borrow_limit")
    gpus_in_use = serializers.IntegerField(source="workload.gpus_in_use")
    queued_jobs = serializers.IntegerField(source="workload.queued_jobs")
    quota_used_pct = serializers.FloatField(help_text="GPUs held in percent of the quota.")
    created_at = serializers.DateTimeField(source="tenant.created_at")
