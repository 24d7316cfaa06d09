from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("common", "0030_audit_entry")]

    operations = [
        migrations.CreateModel(
            name="BulkRun",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "token",
                    models.UUIDField(
                        help_text="Of the page that asked, so that a second click starts nothing.", unique=True
                    ),
                ),
                ("work", models.CharField(help_text="Such as billing.finalise.", max_length=64)),
                ("actor", models.CharField(max_length=200)),
                ("reason", models.CharField(blank=True, default="", max_length=500)),
                ("terms", models.JSONField(default=dict, help_text="What was agreed to beside the rows.")),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "work in bulk",
                "verbose_name_plural": "work in bulk",
                "ordering": ["-pk"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("finished_at", None)), fields=["started_at"], name="bulk_run_unfinished"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="BulkStep",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("object_id", models.BigIntegerField()),
                ("name", models.CharField(help_text="The row in words, as it was.", max_length=300)),
                ("terms", models.JSONField(help_text="What was agreed to of this row.", null=True)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("done", "Done"),
                            ("refused", "Refused"),
                            ("stopped", "Stopped"),
                        ],
                        default="waiting",
                        max_length=16,
                    ),
                ),
                (
                    "told",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="What came of it, or why it was refused.",
                        max_length=500,
                    ),
                ),
                ("result_model", models.CharField(blank=True, default="", max_length=64)),
                ("result_id", models.BigIntegerField(null=True)),
                (
                    "run",
                    models.ForeignKey(on_delete=models.CASCADE, related_name="steps", to="common.bulkrun"),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "waiting")), fields=["run", "id"], name="bulk_step_waiting"
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("run", "object_id"), name="bulk_step_once")],
            },
        ),
    ]
