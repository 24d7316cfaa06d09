"""The outbox gets another shape. Nothing ever wrote the old one, so that no row is lost."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("alerts", "0002_built_in_rules")]

    operations = [migrations.DeleteModel(name="Delivery")]
