"""The groups may look at the model that came with jobs 0050."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0050_groups_see_runs"), ("jobs", "0054_kind_waits")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
