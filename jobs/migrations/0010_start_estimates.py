"""Estimates of when waiting jobs start, kept to be scored."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0004_ledger_blocks"),
    ]

    operations = [
        migrations.CreateModel(
            name="StartEstimate",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("made_at", models.DateTimeField()),
                ("starts_at", models.DateTimeField()),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="start_estimates", to="jobs.job"
                    ),
                ),
            ],
            options={
                "ordering": ["-pk"],
                "indexes": [
                    models.Index(fields=["job", "-made_at"], name="start_estimate_by_job"),
                    models.Index(fields=["made_at"], name="start_estimate_by_time"),
                ],
            },
        ),
    ]
