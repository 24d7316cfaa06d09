"""The rules of the other types exist, enabled, from the first migration on."""

from django.db import migrations
from django.utils import timezone

RULES = [
    # (name, type, threshold, recovery threshold, for seconds, severity)
    ("Node silent", "node_silent", 120.0, None, 0, "critical"),
    ("GPU too hot", "gpu_temperature", 90.0, 85.0, 120, "warning"),
    ("Queue stalled", "queue_stalled", 15.0, None, 300, "warning"),
    ("Job far over its estimate", "job_overrun", 150.0, None, 0, "info"),
    ("Money leaking", "leakage_rate", 100.0, 80.0, 3600, "warning"),
    ("GPU model without a price", "unpriced_gpu", 1.0, None, 0, "critical"),
    ("Invoice stuck on its way", "invoice_sync_failed", 60.0, None, 0, "critical"),
    ("Scheduler late", "scheduler_late", 120.0, 60.0, 0, "critical"),
]


def add_rules(apps, schema_editor):
    rule_model = apps.get_model("alerts", "AlertRule")
    for name, kind, threshold, recovery, for_seconds, severity in RULES:
        rule_model.objects.get_or_create(
            name=name,
            defaults={
                "type": kind,
                "threshold": threshold,
                "recovery_threshold": recovery,
                "for_seconds": for_seconds,
                "severity": severity,
                "created_at": timezone.now(),
            },
        )


def remove_rules(apps, schema_editor):
    """Whatever is of a type that the code before did not know goes, with its incidents."""
    kinds = [rule[1] for rule in RULES]
    apps.get_model("alerts", "Delivery").objects.filter(rule__type__in=kinds).delete()
    events = apps.get_model("alerts", "AlertEvent").objects
    events.filter(parent__rule__type__in=kinds).update(parent=None)
    events.filter(rule__type__in=kinds).delete()
    apps.get_model("alerts", "AlertRule").objects.filter(type__in=kinds).delete()


class Migration(migrations.Migration):
    dependencies = [("alerts", "0004_channels_costs_and_outbox")]

    operations = [migrations.RunPython(add_rules, remove_rules)]
