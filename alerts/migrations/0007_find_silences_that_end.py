from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index is built beside the writers only outside of a transaction.
    atomic = False

    dependencies = [("alerts", "0006_routes_by_model")]

    operations = [
        AddIndexConcurrently(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("kind", "silence_ending")), fields=["rule"], name="delivery_silence_ending"
            ),
        ),
    ]
