"""Shapes of credit and debit notes and of service-level rules on the wire."""

from typing import Any

from rest_framework import serializers

from billing.models import FAULT_STATES, CreditBasis, CreditNoteStatus, NoteKind, NoteOrigin
from gpufleet.common.currencies import minor_unit
from gpufleet.common.serializers import IdField, InstantField, StrictSerializer
from tenants.models import PlanTier

DECISIONS = [choice for choice in CreditNoteStatus.choices if choice[0] in ("issued", "declined")]


class CreditNoteSerializer(serializers.Serializer[Any]):
    """A correction of a finalised invoice: a credit note takes its amount off, a debit note puts it on."""

    id = serializers.IntegerField(source="pk")
    number = serializers.IntegerField(allow_null=True, help_text="Null until issued.")
    invoice_id = serializers.IntegerField()
    tenant_id = serializers.IntegerField(source="invoice.tenant_id")
    kind = serializers.ChoiceField(choices=NoteKind.choices)
    origin = serializers.ChoiceField(choices=NoteOrigin.choices, help_text="What its amount comes from.")
    status = serializers.ChoiceField(
        choices=CreditNoteStatus.choices, help_text="Withdrawn: overtaken by a draft that was computed later."
    )
    amount = serializers.SerializerMethodField()
    currency = serializers.CharField(source="invoice.currency")
    reason = serializers.CharField()
    service_level_id = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField(allow_blank=True)
    decision_reason = serializers.CharField(allow_blank=True)
    settled_at = serializers.DateTimeField(allow_null=True, help_text="When a debit note was paid.")

    def get_amount(self, note: Any) -> str:
        """With the currency's decimals."""
        return str(note.amount.quantize(minor_unit(note.invoice.currency)))


class CreditNoteDetailSerializer(CreditNoteSerializer):
    """A note with what it is based on."""

    evidence = serializers.DictField(help_text="Lines, allocations, seconds, rates, and the rule and the fault behind.")


class DecisionInputSerializer(StrictSerializer):
    """What finance decides of a draft, and why."""

    status = serializers.ChoiceField(choices=DECISIONS)
    reason = serializers.CharField(max_length=500, allow_blank=True, required=False, help_text="Needed to decline.")


class ServiceLevelInputSerializer(StrictSerializer):
    """A new rule. ``plan_tier`` or ``tenant_id`` makes it one plan's or one tenant's, else it is everybody's."""

    name = serializers.CharField(max_length=200)
    tenant_id = IdField(required=False, allow_null=True)
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, required=False)
    states = serializers.ListField(
        child=serializers.ChoiceField(choices=FAULT_STATES), min_length=1, help_text="What counts as a fault."
    )
    reason_starts_with = serializers.CharField(max_length=100, allow_blank=True, required=False)
    longer_than_seconds = serializers.IntegerField(min_value=0, max_value=31 * 86_400)
    credit_percent = serializers.IntegerField(min_value=0, max_value=100)
    basis = serializers.ChoiceField(choices=CreditBasis.choices, required=False, help_text="Default: overlap.")
    effective_from = InstantField(required=False, help_text="Default: now. Faults that begin earlier do not count.")
    enabled = serializers.BooleanField(required=False)


class ServiceLevelSwitchSerializer(StrictSerializer):
    """A rule's terms never change; it is turned on or off."""

    enabled = serializers.BooleanField()


class ServiceLevelSerializer(serializers.Serializer[Any]):
    """Which faults give back which share of which seconds."""

    id = serializers.IntegerField(source="pk")
    name = serializers.CharField()
    tenant_id = serializers.IntegerField(allow_null=True, help_text="Null: not one tenant's.")
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, help_text="Empty: of every plan.")
    states = serializers.ListField(child=serializers.ChoiceField(choices=FAULT_STATES))
    reason_starts_with = serializers.CharField(allow_blank=True, help_text="Empty: any reason.")
    longer_than_seconds = serializers.IntegerField()
    credit_percent = serializers.IntegerField()
    basis = serializers.ChoiceField(choices=CreditBasis.choices)
    effective_from = serializers.DateTimeField()
    enabled = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()
