"""Days of the ledger as sums, and blocks of days: what they say, the ranges say too."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from clusters.models import GPU, Cluster
from tenants.models import Tenant


class LedgerDay(models.Model):
    """A past UTC day that is rolled up, or about to be. Triggers delete its row, in the transaction of the change, when
    the ledger of the day changes; then it is computed from the ranges again until it is rolled up anew."""

    day = models.DateField(primary_key=True)
    cuts = ArrayField(
        models.DateTimeField(),
        default=list,
        help_text="Where the day is cut into parts: a price changed at these instants.",
    )
    rolled_at = models.DateTimeField(null=True, blank=True, help_text="Empty: announced, and not to be read yet.")

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d}"


class Spent(models.Model):
    """What GPU-time was spent on, in microseconds; see ``jobs.ledger``."""

    registered = models.BigIntegerField()
    sold = models.BigIntegerField()
    could_have_run = models.BigIntegerField()
    fragmented = models.BigIntegerField()
    held_by_quota = models.BigIntegerField()
    no_demand = models.BigIntegerField()
    draining = models.BigIntegerField()
    maintenance = models.BigIntegerField()
    unhealthy = models.BigIntegerField()
    offline = models.BigIntegerField()

    class Meta:
        abstract = True


# The house's one idea, once more, where it is kept.
ADDS_UP = Q(
    registered=F("sold")
    + F("could_have_run")
    + F("fragmented")
    + F("held_by_quota")
    + F("no_demand")
    + F("draining")
    + F("maintenance")
    + F("unhealthy")
    + F("offline")
)


class GpuDay(Spent):
    """What one GPU's time in one UTC day was spent on. A day that is cut has a row a part, known by the instant at
    which it starts."""

    pk = models.CompositePrimaryKey("start", "gpu")
    start = models.DateTimeField()
    gpu = models.ForeignKey(GPU, on_delete=models.PROTECT, related_name="+", db_index=False)

    class Meta:
        verbose_name = "GPU day"
        constraints = [models.CheckConstraint(condition=ADDS_UP, name="gpu_day_adds_up")]

    def __str__(self) -> str:
        return f"GPU {self.gpu_id} on {self.start:%Y-%m-%d}"


class LedgerBlock(models.Model):
    """Ten days from ``first_day`` that are summed up once more. It counts while its row is there and all of its days
    are rolled up; whoever rolls up one of them anew deletes it."""

    first_day = models.DateField(primary_key=True)
    rolled_at = models.DateTimeField()

    class Meta:
        ordering = ["-first_day"]

    def __str__(self) -> str:
        return f"ten days from {self.first_day:%Y-%m-%d}"


class GpuBlock(Spent):
    """What one GPU's time in a block of days was spent on."""

    pk = models.CompositePrimaryKey("first_day", "gpu")
    first_day = models.DateField()
    gpu = models.ForeignKey(GPU, on_delete=models.PROTECT, related_name="+", db_index=False)

    class Meta:
        verbose_name = "GPU block"
        constraints = [models.CheckConstraint(condition=ADDS_UP, name="gpu_block_adds_up")]

    def __str__(self) -> str:
        return f"GPU {self.gpu_id} in ten days from {self.first_day:%Y-%m-%d}"


class SalesDay(models.Model):
    """What was sold in one UTC day, or part of it, to one tenant at one locked price, in microseconds of GPU-time."""

    start = models.DateTimeField()
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="+", db_index=False)
    model = models.CharField(max_length=100, blank=True)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    rate_id = models.BigIntegerField(null=True)
    price_per_gpu_hour = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    currency = models.CharField(max_length=3, blank=True)
    held = models.BigIntegerField()

    class Meta:
        constraints = [
            # Also serves every read, which is by start.
            models.UniqueConstraint(
                fields=["start", "cluster", "model", "tenant", "rate_id", "price_per_gpu_hour", "currency"],
                name="sales_day_once",
                nulls_distinct=False,
            )
        ]

    def __str__(self) -> str:
        return f"sold on {self.start:%Y-%m-%d}"
