"""The three built-in rules exist, enabled, from the first migration on."""

from django.db import migrations
from django.utils import timezone

RULES = [
    # (name, type, threshold, recovery threshold, for seconds, severity)
    ("Allocated GPUs under-used", "utilization_low", 10.0, 15.0, 900, "info"),
    ("Tenant at its quota", "quota_breach", 100.0, 90.0, 600, "warning"),
    ("Cluster health degraded", "health_degraded", 5.0, 3.0, 60, "critical"),
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
    names = [rule[0] for rule in RULES]
    apps.get_model("alerts", "AlertRule").objects.filter(name__in=names, events__isnull=True).delete()


class Migration(migrations.Migration):
    dependencies = [("alerts", "0001_initial")]

    operations = [migrations.RunPython(add_rules, remove_rules)]
