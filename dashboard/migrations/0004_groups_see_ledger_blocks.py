"""The groups may look at the models that came with jobs 0004."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0003_groups_see_stripe"), ("jobs", "0004_ledger_blocks")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
