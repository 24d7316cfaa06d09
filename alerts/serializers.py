"""Shapes of rules, channels, planned work and incidents on the wire."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from alerts.models import AlertRule, Channel, ChannelKind, EventStatus, MaintenanceWindow, RuleType, Severity
from clusters.models import Cluster, Node
from gpufleet.common.serializers import FiniteFloatField, InstantField, RowField, StrictSerializer
from tenants.models import Tenant

LARGEST_INTEGER = 2**31 - 1


def _cluster() -> Any:
    return RowField(
        queryset=Cluster.objects.filter(decommissioned_at__isnull=True),
        source="cluster",
        allow_null=True,
        required=False,
    )


def _tenant() -> Any:
    return RowField(queryset=Tenant.objects.all(), source="tenant", allow_null=True, required=False)


class RuleChangeSerializer(StrictSerializer):
    """What may be changed of a rule; its type and scope stay, since its incidents are about them."""

    name = serializers.CharField(max_length=200)
    threshold = FiniteFloatField()
    recovery_threshold = FiniteFloatField(allow_null=True, required=False)
    for_seconds = serializers.IntegerField(min_value=0, max_value=LARGEST_INTEGER, required=False)
    severity = serializers.ChoiceField(choices=Severity.choices, required=False)
    channels = RowField(queryset=Channel.objects.all(), many=True, required=False)
    enabled = serializers.BooleanField(required=False)


class RuleInputSerializer(RuleChangeSerializer):
    """A new rule."""

    type = serializers.ChoiceField(choices=RuleType.choices)
    cluster_id = _cluster()
    tenant_id = _tenant()
    gpu_model = serializers.CharField(max_length=100, allow_blank=True, required=False)


class EvaluationSerializer(serializers.Serializer[Any]):
    """What a rule saw last. ``missing``: subjects without fresh data, which are neither well nor in trouble."""

    evaluated_at = serializers.DateTimeField()
    subjects = serializers.IntegerField()
    in_trouble = serializers.IntegerField()
    missing = serializers.IntegerField()


class AmountSerializer(serializers.Serializer[Any]):
    """Money, as a decimal string with its currency."""

    amount = serializers.CharField()
    currency = serializers.CharField()


class RuleSerializer(serializers.ModelSerializer[AlertRule]):
    """A rule as it is shown."""

    cluster_id = serializers.IntegerField(allow_null=True, read_only=True)
    tenant_id = serializers.IntegerField(allow_null=True, read_only=True)
    channels = serializers.SerializerMethodField()
    silence_cost = serializers.SerializerMethodField()
    evaluation = EvaluationSerializer(read_only=True, allow_null=True, default=None)

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
            "gpu_model",
            "severity",
            "channels",
            "enabled",
            "silenced_at",
            "silenced_until",
            "silenced_by",
            "silence_reason",
            "silence_cost",
            "evaluation",
            "created_at",
        ]

    def get_channels(self, rule: AlertRule) -> list[int]:
        """The ids of the channels that it names; none: the channels' routes decide."""
        return [channel.pk for channel in rule.channels.all()]

    @extend_schema_field(AmountSerializer(many=True))
    def get_silence_cost(self, rule: AlertRule) -> list[dict[str, str]]:
        """What the incidents under the silence have cost so far, by currency; empty where there is none."""
        costs = self.context["silence_costs"].get(rule.pk, [])
        return [{"amount": str(amount), "currency": currency} for amount, currency in costs]


class SilenceSerializer(StrictSerializer):
    """Until when a rule is quiet, and why."""

    until = InstantField()
    reason = serializers.CharField(max_length=500)


class AcknowledgementSerializer(StrictSerializer):
    """Nothing is said with it: who has seen it is whose key it is."""


class ChannelChangeSerializer(StrictSerializer):
    """What may be changed of a channel; its kind stays."""

    name = serializers.CharField(max_length=200)
    target = serializers.CharField(max_length=1000, required=False)
    secret = serializers.CharField(max_length=200, required=False)
    min_severity = serializers.ChoiceField(choices=Severity.choices, allow_blank=True, required=False)
    cluster_id = _cluster()
    tenant_id = _tenant()
    gpu_model = serializers.CharField(max_length=100, allow_blank=True, required=False)
    enabled = serializers.BooleanField(required=False)


class ChannelInputSerializer(ChannelChangeSerializer):
    """A new channel. ``target`` may be left out for PagerDuty, ``secret`` for a webhook, which is then given one."""

    kind = serializers.ChoiceField(choices=ChannelKind.choices)


class ChannelSerializer(serializers.ModelSerializer[Channel]):
    """A channel as it is shown: without its secret."""

    cluster_id = serializers.IntegerField(allow_null=True, read_only=True)
    tenant_id = serializers.IntegerField(allow_null=True, read_only=True)

    class Meta:
        model = Channel
        fields = [
            "id",
            "name",
            "kind",
            "target",
            "min_severity",
            "cluster_id",
            "tenant_id",
            "gpu_model",
            "enabled",
            "created_at",
        ]


class NewChannelSerializer(ChannelSerializer):
    """A new channel, with its secret this once."""

    class Meta(ChannelSerializer.Meta):
        fields = [*ChannelSerializer.Meta.fields, "secret"]


class WindowInputSerializer(StrictSerializer):
    """Planned work on a cluster or a node."""

    cluster_id = _cluster()
    node_id = RowField(
        queryset=Node.objects.filter(decommissioned_at__isnull=True), source="node", allow_null=True, required=False
    )
    starts_at = InstantField()
    ends_at = InstantField()
    reason = serializers.CharField(max_length=500)


class WindowSerializer(serializers.ModelSerializer[MaintenanceWindow]):
    """A maintenance window as it is shown."""

    cluster_id = serializers.IntegerField(allow_null=True, read_only=True)
    node_id = serializers.IntegerField(allow_null=True, read_only=True)

    class Meta:
        model = MaintenanceWindow
        fields = ["id", "cluster_id", "node_id", "starts_at", "ends_at", "reason", "created_by", "created_at"]


class EventSerializer(serializers.Serializer[Any]):
    """An incident as it is shown."""

    id = serializers.IntegerField()
    rule_id = serializers.IntegerField()
    rule_name = serializers.CharField(source="rule.name")
    type = serializers.ChoiceField(choices=RuleType.choices, source="rule.type")
    severity = serializers.ChoiceField(choices=Severity.choices, source="rule.severity")
    subject = serializers.CharField()
    name = serializers.CharField()
    cluster_id = serializers.IntegerField(allow_null=True)
    node_id = serializers.IntegerField(allow_null=True)
    tenant_id = serializers.IntegerField(allow_null=True)
    gpu_model = serializers.CharField()
    status = serializers.ChoiceField(choices=[EventStatus.FIRING.value, EventStatus.RESOLVED.value])
    value = serializers.FloatField()
    message = serializers.CharField()
    cost_per_hour = serializers.DecimalField(max_digits=16, decimal_places=2, allow_null=True)
    currency = serializers.CharField(allow_blank=True)
    since = serializers.DateTimeField()
    fired_at = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)
    flapping = serializers.BooleanField()
    missing_since = serializers.DateTimeField(allow_null=True)
    parent_id = serializers.IntegerField(allow_null=True)
    told_at = serializers.DateTimeField(allow_null=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    acknowledged_by = serializers.CharField(allow_blank=True)
