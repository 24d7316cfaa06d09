"""The groups may look at the models that came with billing 0010, and finance writes service-level rules."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0004_groups_see_ledger_blocks"), ("billing", "0010_service_levels_and_debit_notes")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
