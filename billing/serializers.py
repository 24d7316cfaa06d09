"""Shapes of rates and invoices on the wire. Money is a decimal string with its currency beside it."""

from typing import Any

from rest_framework import serializers

from gpufleet.common.serializers import IdField, InstantField, StrictSerializer
from tenants.models import PlanTier


class RateInputSerializer(StrictSerializer):
    """A new rate. ``plan_tier`` or ``tenant_id`` makes it more specific than the list price."""

    gpu_model = serializers.CharField(max_length=100, help_text="Exactly as the GPUs report it.")
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6, min_value=0)
    currency = serializers.CharField(
        min_length=3, max_length=3, required=False, help_text="ISO 4217. Default: the tenant's, or USD."
    )
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, required=False)
    tenant_id = IdField(required=False, allow_null=True)
    minimum_seconds = serializers.IntegerField(min_value=0, max_value=31 * 86_400, required=False)
    increment_seconds = serializers.IntegerField(min_value=1, max_value=31 * 86_400, required=False)
    effective_from = InstantField(source="valid_from", required=False, help_text="Default: now.")
    reason = serializers.CharField(max_length=500, allow_blank=True, required=False)


class RateSerializer(serializers.Serializer[Any]):
    """A rate as it is shown."""

    id = serializers.IntegerField(source="pk")
    gpu_model = serializers.CharField()
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6)
    currency = serializers.CharField(help_text="ISO 4217.")
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, help_text="Empty: of every plan.")
    tenant_id = serializers.IntegerField(allow_null=True, help_text="Null: of every tenant.")
    minimum_seconds = serializers.IntegerField()
    increment_seconds = serializers.IntegerField()
    effective_from = serializers.DateTimeField(source="valid_from")
    recorded_at = serializers.DateTimeField()
    recorded_by = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
