"""What a flag says when it is off too; nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0053_heat_by_time")]

    operations = [
        migrations.AlterField(
            model_name="node",
            name="silent",
            field=models.BooleanField(default=False, help_text="Whether its heartbeats have stopped."),
        ),
    ]
