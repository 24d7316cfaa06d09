"""The groups may look at the models that came with jobs 0010."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0012_groups_see_alert_channels"), ("jobs", "0010_start_estimates")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
