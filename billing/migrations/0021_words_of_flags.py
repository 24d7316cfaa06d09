"""What a flag says when it is off too; nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0020_invoice_events")]

    operations = [
        migrations.AlterField(
            model_name="outboxmessage",
            name="uncertain",
            field=models.BooleanField(default=False, help_text="Whether the last try may or may not have acted."),
        ),
    ]
