import django.contrib.postgres.constraints
import django.contrib.postgres.fields.ranges
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.comparison
from django.db import migrations, models

# What jobs waited for, a row for each stretch: of its own, as its kind, and for the scheduler while its kind has no row.
VIEW = """
CREATE VIEW jobs_wait AS
SELECT job_id, code, figures, during FROM jobs_waitperiod WHERE code <> 'kind'
 UNION ALL
SELECT own.job_id, told.code, told.figures, own.during * told.during
  FROM jobs_waitperiod AS own
  JOIN jobs_job AS job ON job.id = own.job_id
  JOIN jobs_kindwait AS told
    ON told.cluster_id = job.cluster_id AND coalesce(told.tenant_id, 0) = coalesce(job.tenant_id, 0)
   AND told.gpu_type = job.gpu_type AND told.gpu_count = job.gpu_count AND told.during && own.during
 WHERE own.code = 'kind'
 UNION ALL
SELECT own.job_id, 'scheduler', '{}', gap
  FROM jobs_waitperiod AS own
  JOIN jobs_job AS job ON job.id = own.job_id
 CROSS JOIN LATERAL (
       SELECT range_agg(told.during) AS spans
         FROM jobs_kindwait AS told
        WHERE told.cluster_id = job.cluster_id AND coalesce(told.tenant_id, 0) = coalesce(job.tenant_id, 0)
          AND told.gpu_type = job.gpu_type AND told.gpu_count = job.gpu_count AND told.during && own.during) AS known
 CROSS JOIN LATERAL unnest(tstzmultirange(own.during) - coalesce(known.spans, '{}')) AS gap
 WHERE own.code = 'kind'
"""
# Who goes back to the release before finds jobs that nobody has looked at yet.
FORGET = """
UPDATE jobs_waitperiod SET code = 'scheduler' WHERE code = 'kind';
UPDATE jobs_job SET block_reason = 'Waits for the scheduler''s next cycle.' WHERE status = 'queued' AND block_reason = ''
"""
# A rolled day is forgotten when its past changes, as for the ledger's other tables.
WATCH = """
CREATE TRIGGER jobs_ledger_gained AFTER INSERT ON jobs_kindwait REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_ledger_gained();
CREATE TRIGGER jobs_ledger_changed AFTER UPDATE ON jobs_kindwait REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_ledger_changed();
CREATE TRIGGER jobs_ledger_lost AFTER DELETE ON jobs_kindwait REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_ledger_lost();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("clusters", "0050_execution_enabled"),
        ("jobs", "0053_estimate_source"),
        ("tenants", "0003_borrowing"),
    ]

    operations = [
        migrations.AddField(
            model_name="schedulercycle",
            name="told",
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AlterField(
            model_name="job",
            name="block_reason",
            field=models.CharField(
                blank=True,
                default="",
                help_text="Why it is held, or waits apart from its kind; empty: what its kind waits for.",
                max_length=500,
            ),
        ),
        migrations.CreateModel(
            name="KindWait",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("gpu_type", models.CharField(blank=True, max_length=300)),
                ("gpu_count", models.PositiveIntegerField()),
                ("code", models.CharField(max_length=32)),
                ("figures", models.JSONField(default=dict)),
                ("sentence", models.CharField(help_text="The reason in words.", max_length=500)),
                ("during", django.contrib.postgres.fields.ranges.DateTimeRangeField()),
                (
                    "cluster",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="clusters.cluster",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ["-pk"],
                "indexes": [
                    django.contrib.postgres.indexes.GistIndex(fields=["during"], name="kind_wait_by_time"),
                ],
                "constraints": [
                    django.contrib.postgres.constraints.ExclusionConstraint(
                        expressions=[
                            ("cluster", "="),
                            (django.db.models.functions.comparison.Coalesce("tenant", 0), "="),
                            ("gpu_type", "="),
                            ("gpu_count", "="),
                            ("during", "&&"),
                        ],
                        name="kind_waits_for_one_reason_at_a_time",
                    ),
                    models.UniqueConstraint(
                        models.F("cluster"),
                        django.db.models.functions.comparison.Coalesce("tenant", 0),
                        models.F("gpu_type"),
                        models.F("gpu_count"),
                        condition=models.Q(("during__upper_inf", True)),
                        name="kind_wait_open",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("during__isempty", False)), name="kind_wait_not_empty"
                    ),
                ],
            },
        ),
        migrations.RunSQL(VIEW, FORGET + ";\nDROP VIEW jobs_wait"),
        migrations.RunSQL(WATCH, migrations.RunSQL.noop),
    ]
