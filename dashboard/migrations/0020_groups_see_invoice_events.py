"""The groups may look at the model that came with billing 0020."""

from importlib import import_module

from django.db import migrations

groups = import_module("dashboard.migrations.0001_groups")


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0013_groups_see_estimates"), ("billing", "0020_invoice_events")]

    operations = [migrations.RunPython(groups.add_groups, migrations.RunPython.noop)]
