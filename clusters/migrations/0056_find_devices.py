"""Where the devices that a node names are in service."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index is built beside the writers only outside of a transaction.
    atomic = False

    dependencies = [("clusters", "0055_why_a_gpu_was_retired")]

    operations = [
        AddIndexConcurrently(
            model_name="gpu",
            index=models.Index(
                condition=models.Q(("retired_at__isnull", True)), fields=["uuid"], name="gpu_device"
            ),
        ),
    ]
