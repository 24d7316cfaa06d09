"""What Stripe must hear of, what it told us, and where the two disagree."""

from django.db import models
from django.db.models import Q

from billing.models.credits import CreditNote
from billing.models.invoices import Invoice, InvoiceLine
from tenants.models import Tenant


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
    uncertain = models.BooleanField(default=False, help_text="Whether the last try may or may not have acted.")
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
        return f"{self.step} of {self.invoice}: {self.status}"

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
