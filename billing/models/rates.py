"""What a GPU-hour costs."""

from django.db import models
from django.db.models import Q

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
            models.CheckConstraint(
                condition=Q(price_per_gpu_hour__gte=0),
                name="rate_price_not_negative",
                violation_error_message="The price is 0 or above.",
            ),
            models.CheckConstraint(
                condition=Q(increment_seconds__gte=1),
                name="rate_increment_at_least_one",
                violation_error_message="The increment is 1 second at least.",
            ),
            models.CheckConstraint(condition=~Q(gpu_model=""), name="rate_has_a_model"),
            models.CheckConstraint(condition=Q(plan_tier__in=["", *PlanTier.values]), name="rate_plan_known"),
            models.CheckConstraint(
                condition=Q(currency__regex=r"^[A-Z]{3}$"),
                name="rate_currency_code",
                violation_error_message="The currency is a code of ISO 4217, such as USD.",
            ),
            models.CheckConstraint(
                condition=Q(plan_tier="") | Q(tenant__isnull=True),
                name="rate_for_plan_or_tenant_not_both",
                violation_error_message="A plan or a tenant, not both; neither is for all.",
            ),
        ]
        indexes = [
            # Serves the rate book of a tick: what is in force for a model.
            models.Index(fields=["gpu_model", "valid_from"], name="rate_by_model"),
        ]

    def __str__(self) -> str:
        return f"{self.gpu_model}: {self.price_per_gpu_hour} {self.currency}/GPU-hour"
