"""Why a GPU was retired. The column has a default of its own, so that the release before may go on inserting GPUs."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0054_words_of_flags")]

    operations = [
        migrations.AddField(
            model_name="gpu",
            name="retired_reason",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Why it was retired, and by whom if a person did.",
                max_length=500,
            ),
        ),
    ]
