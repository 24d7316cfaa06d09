"""Tenants: the customers of the GPU cloud."""

from django.db import models
from django.db.models import Q


class PlanTier(models.TextChoices):
    """The plans, from the smallest to the largest."""

    STARTER = "starter", "Starter"
    PRO = "pro", "Pro"
    GROWTH = "growth", "Growth"
    ENTERPRISE = "enterprise", "Enterprise"


class TenantStatus(models.TextChoices):
    """An inactive tenant keeps its history and starts nothing new."""

    ACTIVE = "active", "Active"
    INACTIVE = "inactive", "Inactive"


class Tenant(models.Model):
    """A customer: how many GPUs it may hold at once, and on which plan."""

    name = models.CharField(max_length=200)
    gpu_quota = models.PositiveIntegerField(help_text="GPUs that the tenant may hold at once.")
    contact_email = models.EmailField(blank=True, default="")
    plan_tier = models.CharField(max_length=16, choices=PlanTier, default=PlanTier.STARTER)
    status = models.CharField(max_length=16, choices=TenantStatus, default=TenantStatus.ACTIVE)
    currency = models.CharField(
        max_length=3, default="USD", help_text="ISO 4217; every amount of this tenant is in it."
    )
    billing_address = models.TextField(
        max_length=500, blank=True, default="", help_text="As it stands on invoices, line by line."
    )
    tax_id = models.CharField(max_length=50, blank=True, default="", help_text="Such as a VAT number.")
    lends_idle_quota = models.BooleanField(
        default=False, help_text="Others may use what it leaves idle of its quota, until its own jobs need it."
    )
    borrow_limit = models.PositiveIntegerField(
        default=0, help_text="GPUs above its own quota that it may hold while others lend; reclaimed first."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["name"], name="tenant_name_unique"),
            models.CheckConstraint(
                condition=Q(gpu_quota__gte=1),
                name="tenant_quota_at_least_one",
                violation_error_message="The quota is 1 GPU at least. To stop a tenant, make it inactive.",
            ),
            models.CheckConstraint(condition=Q(plan_tier__in=PlanTier.values), name="tenant_plan_known"),
            models.CheckConstraint(condition=Q(status__in=TenantStatus.values), name="tenant_status_known"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="tenant_currency_code"),
        ]

    def __str__(self) -> str:
        return self.name
