"""The groups may look at the models that came with alerts 0004, and operators may announce maintenance."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0011_groups_see_telemetry"), ("alerts", "0004_channels_costs_and_outbox")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
