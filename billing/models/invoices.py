"""Invoices, their lines, and the seconds that they bill."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Q

from billing.models.rates import Rate
from jobs.models import Allocation
from tenants.models import Tenant


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
    particulars = models.JSONField(
        default=dict, blank=True, help_text="Seller, buyer and tax as they were when it was finalised."
    )
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
        return f"invoice {self.particulars.get('number', self.number)}" if self.number else f"draft {self.pk}"


class InvoiceEvent(models.Model):
    """Every move of an invoice: when, from what to what, by whom, why. Rows are only ever added."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="events")
    at = models.DateTimeField()
    from_status = models.CharField(max_length=16, choices=InvoiceStatus)
    to_status = models.CharField(max_length=16, choices=InvoiceStatus)
    actor = models.CharField(max_length=200, help_text="key:<id>, user:<name> or stripe.")
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.invoice}: {self.from_status} → {self.to_status}"


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
        return f"{self.gpu_model} at {self.price_per_gpu_hour.normalize():f}"


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
