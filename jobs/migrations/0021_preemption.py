"""Preemption: the claim of the job that waits, and the notice to the one that runs."""

from django.contrib.postgres.operations import AddConstraintNotValid, ValidateConstraint
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    # Each step by itself: a constraint is checked against the old rows while others read and write them.
    atomic = False
    dependencies = [
        ("clusters", "0026_preemption"),
        ("jobs", "0020_event_transactions"),
        ("tenants", "0003_borrowing"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="claimed_at",
            field=models.DateTimeField(
                blank=True, help_text="It waits, and since then others are preempted for it.", null=True
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="preempt_at",
            field=models.DateTimeField(blank=True, help_text="It runs, and must give its GPUs back then.", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="preempt_for",
            field=models.BigIntegerField(blank=True, help_text="The job that it is preempted for.", null=True),
        ),
        AddConstraintNotValid(
            model_name="job",
            constraint=models.CheckConstraint(
                condition=Q(claimed_at__isnull=True) | Q(status="queued"), name="job_claims_while_queued"
            ),
        ),
        AddConstraintNotValid(
            model_name="job",
            constraint=models.CheckConstraint(
                condition=Q(preempt_at__isnull=True, preempt_for__isnull=True)
                | Q(status="running", preempt_at__isnull=False, preempt_for__isnull=False),
                name="job_preempted_while_running",
            ),
        ),
        ValidateConstraint(model_name="job", name="job_claims_while_queued"),
        ValidateConstraint(model_name="job", name="job_preempted_while_running"),
    ]
