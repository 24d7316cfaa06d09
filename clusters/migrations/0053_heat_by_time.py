"""A GPU is hot by time and no longer by a number of samples.

The new columns are null where nothing is hot, so nothing is rewritten. ``hot_samples`` stays in the table, with a
default for those who no longer name it, so that processes of the release before may go on writing until they are
replaced; nobody reads it, and a later release may drop it.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0052_room_for_readings")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField("latestreading", "hot_samples")],
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE clusters_latestreading ALTER COLUMN hot_samples SET DEFAULT 0",
                    "ALTER TABLE clusters_latestreading ALTER COLUMN hot_samples DROP DEFAULT",
                )
            ],
        ),
        migrations.AddField(
            "latestreading",
            "hot_since",
            models.DateTimeField(
                help_text="The first of the samples without a gap, up to now, at or above the temperature limit.",
                null=True,
            ),
        ),
        migrations.AddField(
            "latestreading",
            "cool_since",
            models.DateTimeField(
                help_text="Of a GPU that heat took out: the first of them below the recovery limit.", null=True
            ),
        ),
        migrations.AddField(
            "latestreading",
            "streak_until",
            models.DateTimeField(help_text="The last of those samples.", null=True),
        ),
    ]
