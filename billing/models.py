"""Rates, invoices and their lines, the seconds they bill, credit notes, and the outbox to Stripe.

Money is ``Decimal`` in the currency that stands beside it. Ranges are half-open, in UTC.
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Q

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


class CreditNoteStatus(models.TextChoices):
    """draft → issued or declined."""

    DRAFT = "draft", "Draft"
    ISSUED = "issued", "Issued"
    DECLINED = "declined", "Declined"


class CreditNote(models.Model):
    """A correction of a finalised invoice, which itself never changes."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="credit_notes")
    number = models.PositiveBigIntegerField(null=True, blank=True, unique=True, help_text="Given when it is issued.")
    status = models.CharField(max_length=16, choices=CreditNoteStatus, default=CreditNoteStatus.DRAFT)
    amount = models.DecimalField(max_digits=18, decimal_places=3)
    reason = models.CharField(max_length=500)
    evidence = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=200)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="credit_note_positive"),
            models.CheckConstraint(condition=Q(status__in=CreditNoteStatus.values), name="credit_note_status_known"),
            models.CheckConstraint(
                condition=Q(status="issued", number__isnull=False) | ~Q(status="issued") & Q(number__isnull=True),
                name="credit_note_numbered_when_issued",
            ),
            models.CheckConstraint(
                condition=Q(status="draft", decided_at__isnull=True) | ~Q(status="draft") & Q(decided_at__isnull=False),
                name="credit_note_decided_when_not_draft",
            ),
        ]

    def __str__(self) -> str:
        return f"credit note {self.pk} on invoice {self.invoice_id}"


class StripeCustomer(models.Model):
    """Who a tenant is at Stripe; ``stripe_id`` is empty until Stripe has made it."""

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="stripe_customer")
    reference = models.UUIDField(unique=True, help_text="Stands in Stripe's metadata.")
    stripe_id = models.CharField(max_length=255, blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.tenant} at Stripe"


class StripeEvent(models.Model):
    """A webhook event of Stripe's, stored once by its id, whatever Stripe repeats."""

    stripe_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=100)
    payload = models.JSONField()
    invoice = models.ForeignKey(
        Invoice, null=True, blank=True, on_delete=models.PROTECT, related_name="stripe_events", help_text="If of ours."
    )
    outcome = models.CharField(max_length=500, blank=True, default="", help_text="What it changed, or why nothing.")
    created_at = models.DateTimeField(help_text="When Stripe made it.")
    received_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.type} {self.stripe_id}"


class OutboxStep(models.TextChoices):
    """One call to Stripe. Those of an invoice are made in the order of their rows."""

    CUSTOMER = "customer", "Create the customer"
    CREATE = "create", "Create the invoice"
    ITEM = "item", "Add a line"
    FINALISE = "finalise", "Finalise"
    SEND = "send", "Send"
    CREDIT = "credit", "Credit"
    PAY = "pay", "Mark as paid"
    WRITE_OFF = "write_off", "Mark as uncollectible"
    VOID = "void", "Void"


class OutboxStatus(models.TextChoices):
    """A step's life in the outbox."""

    PENDING = "pending", "Pending"
    DONE = "done", "Done"
    DEAD = "dead", "Dead letter"


class OutboxMessage(models.Model):
    """A step that Stripe must hear of, written with its cause and tried until it is done or dead.

    Stripe knows a repetition by the key, which is the reference and the generation. What the step made carries the
    reference alone, so that it is found again under whatever generation it was made.
    """

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="outbox")
    step = models.CharField(max_length=16, choices=OutboxStep)
    line = models.ForeignKey(InvoiceLine, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    credit_note = models.ForeignKey(CreditNote, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    reference = models.UUIDField()
    generation = models.PositiveSmallIntegerField(default=1)
    key_made_at = models.DateTimeField(help_text="Stripe forgets a key a day later.")
    uncertain = models.BooleanField(default=False, help_text="The last try may or may not have acted.")
    status = models.CharField(max_length=16, choices=OutboxStatus, default=OutboxStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    last_error = models.CharField(max_length=500, blank=True, default="")
    result = models.CharField(
        max_length=255, blank=True, default="", help_text="What it made, or why it was not needed."
    )
    created_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=OutboxStatus.values), name="outbox_status_known"),
            models.CheckConstraint(condition=Q(step__in=OutboxStep.values), name="outbox_step_known"),
            # Two who press the button at once write the steps once.
            models.UniqueConstraint(
                fields=["invoice", "step", "line", "credit_note"], nulls_distinct=False, name="outbox_step_once"
            ),
        ]
        indexes = [
            # Serves the sender: what is due, oldest first.
            models.Index(fields=["next_attempt_at"], condition=Q(status="pending"), name="outbox_due"),
            # Serves the order within an invoice: is there an earlier step that is not done?
            models.Index(fields=["invoice", "id"], condition=~Q(status="done"), name="outbox_unfinished"),
        ]

    def __str__(self) -> str:
        return f"{self.step} of invoice {self.invoice_id}: {self.status}"

    @property
    def idempotency_key(self) -> str:
        """By which Stripe knows a repetition."""
        return f"{self.reference}:{self.generation}"


class StripeDifference(models.Model):
    """Something that Stripe and we do not agree on, as the nightly comparison found it. Nothing mends it silently."""

    invoice = models.ForeignKey(
        Invoice, null=True, blank=True, on_delete=models.PROTECT, related_name="stripe_differences"
    )
    stripe_invoice_id = models.CharField(max_length=255)
    what = models.CharField(max_length=32)
    ours = models.CharField(max_length=255)
    theirs = models.CharField(max_length=255)
    found_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True, blank=True, help_text="When a comparison no longer found it.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["stripe_invoice_id", "what"], condition=Q(gone_at__isnull=True), name="stripe_difference_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.what} of {self.stripe_invoice_id}: {self.ours} here, {self.theirs} at Stripe"
