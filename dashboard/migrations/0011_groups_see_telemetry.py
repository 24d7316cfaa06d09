"""The groups may look at the models that came with clusters 0024."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0010_groups_see_service_levels"), ("clusters", "0024_metric_outbox")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
