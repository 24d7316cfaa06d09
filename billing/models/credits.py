"""Service-level rules, credit and debit notes, and the seconds that they give back."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Q

from billing.models.invoices import BilledRange, Invoice
from clusters.models import GPUState
from tenants.models import PlanTier, Tenant

# What a service-level rule may call a fault: every state but the one in which a GPU does its work.
FAULT_STATES = [state for state in GPUState.choices if state[0] != GPUState.AVAILABLE]


class CreditBasis(models.TextChoices):
    """Which seconds of the allocation a service-level rule credits. Days are UTC days."""

    OVERLAP = "overlap", "The fault's own seconds"
    ALLOCATION = "allocation", "The whole allocation"
    DAY = "day", "The calendar days that the fault touches"


class ServiceLevel(models.Model):
    """A promise: a fault of a GPU that lasts too long gives a share of the allocation's price back, unasked.

    It is one tenant's, or one plan's, or everybody's. Faults that begin at ``effective_from`` or later count.
    """

    name = models.CharField(max_length=200)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="service_levels")
    plan_tier = models.CharField(max_length=16, choices=PlanTier, blank=True, default="")
    states = ArrayField(models.CharField(max_length=16, choices=FAULT_STATES), help_text="What counts as a fault.")
    reason_starts_with = models.CharField(max_length=100, blank=True, default="", help_text="Empty: any reason.")
    longer_than_seconds = models.PositiveIntegerField(help_text="A fault that lasts longer than this counts.")
    credit_percent = models.PositiveSmallIntegerField(help_text="The share that is given back, 0 to 100.")
    basis = models.CharField(max_length=16, choices=CreditBasis, default=CreditBasis.OVERLAP)
    effective_from = models.DateTimeField()
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=200)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(credit_percent__lte=100),
                name="service_level_percent",
                violation_error_message="The credit is 100 percent at most.",
            ),
            models.CheckConstraint(condition=Q(basis__in=CreditBasis.values), name="service_level_basis_known"),
            models.CheckConstraint(condition=Q(plan_tier__in=["", *PlanTier.values]), name="service_level_plan_known"),
            models.CheckConstraint(
                condition=Q(plan_tier="") | Q(tenant__isnull=True),
                name="service_level_for_plan_or_tenant",
                violation_error_message="A plan or a tenant, not both; neither is for all.",
            ),
            models.CheckConstraint(
                condition=Q(states__contained_by=[state for state, _ in FAULT_STATES], states__len__gte=1),
                name="service_level_states_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class CreditNoteStatus(models.TextChoices):
    """draft → issued, declined, or withdrawn: overtaken by a draft that was computed later."""

    DRAFT = "draft", "Draft"
    ISSUED = "issued", "Issued"
    DECLINED = "declined", "Declined"
    WITHDRAWN = "withdrawn", "Withdrawn"


class NoteKind(models.TextChoices):
    """Whose favour it is in: a credit note's is the tenant's."""

    CREDIT = "credit", "Credit note"
    DEBIT = "debit", "Debit note"


class NoteOrigin(models.TextChoices):
    """What a note's amount comes from. Only an amount that a person chose is never computed anew."""

    MANUAL = "manual", "An amount by hand"
    WINDOW = "window", "A window of time"
    RATE = "rate", "A rate that was recorded late"
    SERVICE_LEVEL = "service_level", "A service-level rule"


class CreditNote(models.Model):
    """A correction of a finalised invoice, which itself never changes: down (credit) or up (debit)."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="credit_notes")
    number = models.PositiveBigIntegerField(null=True, blank=True, unique=True, help_text="Given when it is issued.")
    kind = models.CharField(max_length=8, choices=NoteKind, default=NoteKind.CREDIT)
    origin = models.CharField(max_length=16, choices=NoteOrigin, default=NoteOrigin.MANUAL)
    status = models.CharField(max_length=16, choices=CreditNoteStatus, default=CreditNoteStatus.DRAFT)
    amount = models.DecimalField(max_digits=18, decimal_places=3)
    reason = models.CharField(max_length=500)
    evidence = models.JSONField(default=dict, blank=True)
    percent = models.PositiveSmallIntegerField(default=100, help_text="Of the price of the seconds it credits.")
    rate_ids = ArrayField(
        models.BigIntegerField(), default=list, blank=True, help_text="The late rates that it brings to the invoice."
    )
    service_level = models.ForeignKey(
        ServiceLevel, null=True, blank=True, on_delete=models.PROTECT, related_name="credit_notes"
    )
    fault_id = models.BigIntegerField(null=True, blank=True, help_text="The GPU's state period behind it.")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=200)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=200, blank=True, default="")
    decision_reason = models.CharField(max_length=500, blank=True, default="")
    settled_at = models.DateTimeField(null=True, blank=True, help_text="When a debit note was paid.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0),
                name="credit_note_positive",
                violation_error_message="The amount is above 0.",
            ),
            models.CheckConstraint(condition=Q(status__in=CreditNoteStatus.values), name="credit_note_status_known"),
            models.CheckConstraint(condition=Q(kind__in=NoteKind.values), name="credit_note_kind_known"),
            models.CheckConstraint(condition=Q(origin__in=NoteOrigin.values), name="credit_note_origin_known"),
            models.CheckConstraint(condition=Q(percent__lte=100), name="credit_note_percent"),
            models.CheckConstraint(
                condition=Q(status="issued", number__isnull=False) | ~Q(status="issued") & Q(number__isnull=True),
                name="credit_note_numbered_when_issued",
            ),
            models.CheckConstraint(
                condition=Q(status="draft", decided_at__isnull=True) | ~Q(status="draft") & Q(decided_at__isnull=False),
                name="credit_note_decided_when_not_draft",
            ),
            models.CheckConstraint(
                condition=~Q(status="declined") | ~Q(decision_reason=""), name="credit_note_declined_with_reason"
            ),
            models.CheckConstraint(
                condition=Q(settled_at__isnull=True) | Q(kind="debit", status="issued"),
                name="credit_note_debit_settled",
            ),
            models.CheckConstraint(
                condition=Q(origin="service_level", service_level__isnull=False, fault_id__isnull=False)
                | ~Q(origin="service_level") & Q(service_level__isnull=True, fault_id__isnull=True),
                name="credit_note_fault_of_service_level",
            ),
            # A rate correction proposes the whole difference, so that a second proposal would pay it twice.
            models.UniqueConstraint(
                fields=["invoice"], condition=Q(origin="rate", status="draft"), name="credit_note_one_rate_draft"
            ),
            # Serves the rules' run, too: a fault that was judged once under a rule is not raised again.
            models.UniqueConstraint(
                fields=["invoice", "service_level", "fault_id"],
                condition=Q(origin="service_level") & ~Q(status="withdrawn"),
                name="credit_note_once_a_fault",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display().lower()} {self.pk} on {self.invoice}"


class CreditedRange(models.Model):
    """These billed seconds are given back by this note, in part or in whole, and by no other: the database refuses
    a second time. A note that is declined or withdrawn lets go of its seconds (``released_at``)."""

    note = models.ForeignKey(CreditNote, on_delete=models.PROTECT, related_name="credited_ranges")
    billed_range = models.ForeignKey(BilledRange, on_delete=models.PROTECT, related_name="credited_ranges")
    during = DateTimeRangeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            # No billed second is given back twice. Also serves the search for what is credited already.
            ExclusionConstraint(
                name="second_credited_once",
                expressions=[("billed_range", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)],
                condition=Q(released_at__isnull=True),
            ),
            models.CheckConstraint(
                condition=Q(during__isempty=False, during__lower_inf=False, during__upper_inf=False),
                name="credited_range_bounded",
            ),
        ]

    def __str__(self) -> str:
        return f"seconds of billed range {self.billed_range_id} on note {self.note_id}"
