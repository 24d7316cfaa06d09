import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("clusters", "0050_execution_enabled"),
        ("jobs", "0051_ledger_watch_joins_by_hash"),
    ]

    operations = [
        migrations.AlterField(
            model_name="allocation",
            name="gpu",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="allocations",
                to="clusters.gpu",
            ),
        ),
        migrations.AlterField(
            model_name="allocation",
            name="job",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="allocations", to="jobs.job"
            ),
        ),
        migrations.AlterField(
            model_name="jobevent",
            name="job",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="events", to="jobs.job"
            ),
        ),
        migrations.AlterField(
            model_name="waitperiod",
            name="job",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="wait_periods", to="jobs.job"
            ),
        ),
    ]
