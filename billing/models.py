"""Rates, invoices and their lines, the seconds they bill, credit notes, and the outbox to Stripe.

Money is ``Decimal`` in the currency that stands beside it. Ranges are half-open, in UTC.
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Q

from clusters.models import GPUState
from jobs.models import Allocation
from tenants.models import PlanTier, Tenant


class Rate(models.Model):
    """A price of one GPU-hour of a model, in force from ``valid_from``. Rates are added, never edited.

    The most specific rate wins: a tenant's own, then its plan's, then the list price. Of several that are equally
    specific, the latest ``valid_from`` wins, and of those the one recorded last. Only rates in the tenant's own
    currency count.
    """

    gpu_model = models.CharField(max_length=100)
    plan_tier = models.CharField(max_length=16, choices=PlanTier, blank=True, default="")
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="rates")
    currency = models.CharField(max_length=3, default="USD")
    price_per_gpu_hour = models.DecimalField(max_digits=14, decimal_places=6)
    minimum_seconds = models.PositiveIntegerField(default=0, help_text="An allocation bills at least this long.")
    increment_seconds = models.PositiveIntegerField(default=1, help_text="Billed time is rounded up to a multiple.")
    valid_from = models.DateTimeField()
    recorded_at = models.DateTimeField()
    recorded_by = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(price_per_gpu_hour__gte=0), name="rate_price_not_negative"),
            models.CheckConstraint(condition=Q(increment_seconds__gte=1), name="rate_increment_at_least_one"),
            models.CheckConstraint(condition=~Q(gpu_model=""), name="rate_has_a_model"),
            models.CheckConstraint(condition=Q(plan_tier__in=["", *PlanTier.values]), name="rate_plan_known"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="rate_currency_code"),
            models.CheckConstraint(
                condition=Q(plan_tier="") | Q(tenant__isnull=True), name="rate_for_plan_or_tenant_not_both"
            ),
        ]
        indexes = [
            # Serves the rate book of a tick: what is in force for a model.
            models.Index(fields=["gpu_model", "valid_from"], name="rate_by_model"),
        ]

    def __str__(self) -> str:
        return f"{self.gpu_model}: {self.price_per_gpu_hour} {self.currency}/GPU-hour"


class InvoiceStatus(models.TextChoices):
    """draft → open → paid, void or uncollectible."""

    DRAFT = "draft", "Draft"
    OPEN = "open", "Open"
    PAID = "paid", "Paid"
    VOID = "void", "Void"
    UNCOLLECTIBLE = "uncollectible", "Uncollectible"


class Invoice(models.Model):
    """What a tenant owes for a period. Its total is the sum of its lines, to the cent.

    Once it is no longer a draft, triggers refuse every change but the legal moves of its status.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="invoices")
    number = models.PositiveBigIntegerField(null=True, blank=True, unique=True, help_text="Given when it is finalised.")
    status = models.CharField(max_length=16, choices=InvoiceStatus, default=InvoiceStatus.DRAFT)
    currency = models.CharField(max_length=3)
    period = DateTimeRangeField(help_text="The window that was asked for; its lines say what was found in it.")
    total = models.DecimalField(max_digits=18, decimal_places=3, default=0)
    proof_sha256 = models.CharField(max_length=64, blank=True, default="", help_text="Of the proof, when finalised.")
    stripe_invoice_id = models.CharField(max_length=255, blank=True, default="")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=200)
    finalised_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True, help_text="When it was paid, voided or given up.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=InvoiceStatus.values), name="invoice_status_known"),
            models.CheckConstraint(condition=Q(total__gte=0), name="invoice_total_not_negative"),
            # A draft that is thrown away is void without ever having had a number.
            models.CheckConstraint(
                condition=Q(
                    status__in=["draft", "void"], number__isnull=True, finalised_at__isnull=True, proof_sha256=""
                )
                | ~Q(status="draft") & Q(number__isnull=False, finalised_at__isnull=False) & ~Q(proof_sha256=""),
                name="invoice_numbered_when_finalised",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "open"], settled_at__isnull=True)
                | Q(status__in=["paid", "void", "uncollectible"], settled_at__isnull=False),
                name="invoice_settled_when_closed",
            ),
        ]
        indexes = [
            # Serves a tenant's own list, newest first, and its part of the summary.
            models.Index(fields=["tenant", "-id"], name="invoice_by_tenant"),
        ]

    def __str__(self) -> str:
        return f"invoice {self.number}" if self.number else f"draft {self.pk}"


class InvoiceLine(models.Model):
    """GPU time of one model at one rate, and what it costs, rounded once."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    gpu_model = models.CharField(max_length=100)
    rate = models.ForeignKey(Rate, on_delete=models.PROTECT, related_name="+")
    price_per_gpu_hour = models.DecimalField(max_digits=14, decimal_places=6)
    period = DateTimeRangeField(help_text="From the first to the last billed instant.")
    held_seconds = models.DecimalField(
        max_digits=20, decimal_places=6, help_text="GPU-seconds, as the ledger has them."
    )
    billed_seconds = models.PositiveBigIntegerField(help_text="GPU-seconds after the rate's minimum and increment.")
    amount = models.DecimalField(max_digits=18, decimal_places=3)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="invoice_line_not_negative"),
            models.UniqueConstraint(
                fields=["invoice", "gpu_model", "rate", "price_per_gpu_hour"], name="invoice_line_once_a_rate"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.gpu_model} at {self.price_per_gpu_hour}"


class BilledRange(models.Model):
    """These seconds of this allocation stand on this line, and on no other: the database refuses a second time.

    Voiding the invoice sets ``released_at``: the row stays as what the void invoice had said, and the seconds may
    be billed again.
    """

    line = models.ForeignKey(InvoiceLine, on_delete=models.PROTECT, related_name="billed_ranges")
    allocation = models.ForeignKey(Allocation, on_delete=models.PROTECT, related_name="billed_ranges")
    during = DateTimeRangeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            # Promise 3: every sold second is billed at most once. Also serves the search for unbilled seconds.
            ExclusionConstraint(
                name="second_billed_once",
                expressions=[("allocation", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)],
                condition=Q(released_at__isnull=True),
            ),
            models.CheckConstraint(
                condition=Q(during__isempty=False, during__lower_inf=False, during__upper_inf=False),
                name="billed_range_bounded",
            ),
        ]

    def __str__(self) -> str:
        return f"seconds of allocation {self.allocation_id} on line {self.line_id}"


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
            models.CheckConstraint(condition=Q(credit_percent__lte=100), name="service_level_percent"),
            models.CheckConstraint(condition=Q(basis__in=CreditBasis.values), name="service_level_basis_known"),
            models.CheckConstraint(condition=Q(plan_tier__in=["", *PlanTier.values]), name="service_level_plan_known"),
            models.CheckConstraint(
                condition=Q(plan_tier="") | Q(tenant__isnull=True), name="service_level_for_plan_or_tenant"
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
            models.CheckConstraint(condition=Q(amount__gt=0), name="credit_note_positive"),
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
        return f"{self.get_kind_display().lower()} {self.pk} on invoice {self.invoice_id}"


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


class StripeEvent(models.Model):
    """A webhook event of Stripe's, stored once by its id, whatever Stripe repeats."""

    stripe_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=100)
    payload = models.JSONField()
    created_at = models.DateTimeField(help_text="When Stripe made it.")
    received_at = models.DateTimeField()
    handled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.type} {self.stripe_id}"


class OutboxStatus(models.TextChoices):
    """A step's life in the outbox."""

    PENDING = "pending", "Pending"
    DONE = "done", "Done"
    DEAD = "dead", "Dead letter"


class OutboxMessage(models.Model):
    """A step that Stripe must hear of, written with its cause and tried until it is done or dead."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="outbox")
    step = models.CharField(max_length=32)
    idempotency_key = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=16, choices=OutboxStatus, default=OutboxStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    last_error = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]
        indexes = [
            # Serves the sender: what is due, oldest first.
            models.Index(fields=["next_attempt_at"], condition=Q(status="pending"), name="outbox_due"),
        ]

    def __str__(self) -> str:
        return f"{self.step} of invoice {self.invoice_id}: {self.status}"
