"""The groups may look at the models that came with billing 0003, and finance may try a dead letter again."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0002_groups_see_ledger_days"), ("billing", "0003_stripe_outbox")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
