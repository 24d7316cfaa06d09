from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("common", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("at", models.DateTimeField()),
                ("actor", models.CharField(max_length=200)),
                ("action", models.CharField(max_length=64)),
                ("model", models.CharField(help_text="Such as jobs.job.", max_length=64)),
                ("object_id", models.BigIntegerField()),
                ("name", models.CharField(help_text="The row in words, as it was.", max_length=300)),
                ("reason", models.CharField(blank=True, default="", max_length=500)),
                ("before", models.JSONField(default=dict)),
                ("after", models.JSONField(help_text="Null: the outcome was not seen.", null=True)),
            ],
            options={
                "verbose_name_plural": "audit log",
                "ordering": ["-pk"],
                "indexes": [
                    models.Index(fields=["model", "object_id", "-id"], name="audit_entry_by_object"),
                    models.Index(fields=["actor", "-id"], name="audit_entry_by_actor"),
                ],
            },
        ),
    ]
