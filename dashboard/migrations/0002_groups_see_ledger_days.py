"""The groups may look at the models that came with jobs 0002."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0001_groups"), ("jobs", "0002_ledger_rollup")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
