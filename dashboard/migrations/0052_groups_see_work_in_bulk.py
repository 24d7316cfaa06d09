"""The groups may look at the models that came with common 0031."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0051_groups_see_kind_waits"), ("common", "0031_bulk_runs")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
