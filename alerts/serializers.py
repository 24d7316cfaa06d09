"""Shapes of rules and incidents on the wire."""

from typing import Any

from rest_framework import serializers

from alerts.models import AlertRule, EventStatus, RuleType, Severity
from clusters.models import Cluster
from gpufleet.common.serializers import FiniteFloatField, InstantField, StrictSerializer
from tenants.models import Tenant

LARGEST_INTEGER = 2**31 - 1


class RuleChangeSerializer(StrictSerializer):
    """What may be changed of a rule; its type and scope stay, since its incidents are about them."""

    name = serializers.CharField(max_length=200)
    threshold = FiniteFloatField()
    recovery_threshold = FiniteFloatField(allow_null=True, required=False)
    for_seconds = serializers.IntegerField(min_value=0, max_value=LARGEST_INTEGER, required=False)
    severity = serializers.ChoiceField(choices=Severity.choices, required=False)
    enabled = serializers.BooleanField(required=False)


class RuleInputSerializer(RuleChangeSerializer):
    """A new rule."""

    type = serializers.ChoiceField(choices=RuleType.choices)
    cluster_id = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.filter(decommissioned_at__isnull=True),
        source="cluster",
        allow_null=True,
        required=False,
    )
    tenant_id = serializers.PrimaryKeyRelatedField(
        queryset=Tenant.objects.all(), source="tenant", allow_null=True, required=False
    )


class RuleSerializer(serializers.ModelSerializer[AlertRule]):
    """A rule as it is shown."""

    cluster_id = serializers.IntegerField(allow_null=True, read_only=True)
    tenant_id = serializers.IntegerField(allow_null=True, read_only=True)

    class Meta:
        model = AlertRule
        fields = [
            "id",
            "name",
            "type",
            "threshold",
            "recovery_threshold",
            "for_seconds",
            "cluster_id",
            "tenant_id",
            "severity",
            "enabled",
            "silenced_until",
            "silenced_by",
            "silence_reason",
            "created_at",
        ]


class SilenceSerializer(StrictSerializer):
    """Until when a rule is quiet, and why."""

    until = InstantField()
    reason = serializers.CharField(max_length=500)


class EventSerializer(serializers.Serializer[Any]):
    """An incident as it is shown."""

    id = serializers.IntegerField()
    rule_id = serializers.IntegerField()
    rule_name = serializers.CharField(source="rule.name")
    type = serializers.ChoiceField(choices=RuleType.choices, source="rule.type")
    severity = serializers.ChoiceField(choices=Severity.choices, source="rule.severity")
    subject = serializers.CharField()
    tenant_id = serializers.IntegerField(allow_null=True)
    status = serializers.ChoiceField(choices=[EventStatus.FIRING.value, EventStatus.RESOLVED.value])
    value = serializers.FloatField()
    message = serializers.CharField()
    since = serializers.DateTimeField()
    fired_at = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    acknowledged_by = serializers.CharField(allow_blank=True)
