"""What a flag says when it is off too; nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("alerts", "0007_find_silences_that_end")]

    operations = [
        migrations.AlterField(
            model_name="alertevent",
            name="flapping",
            field=models.BooleanField(default=False, help_text="Whether it came and went; then it is held until it stays well."),
        ),
    ]
