"""A cluster's terms of preemption."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0025_job_rules'),
    ]

    operations = [
        migrations.AddField(
            model_name='cluster',
            name='preemption',
            field=models.BooleanField(default=False, help_text='Jobs of lower priority, and those on borrowed quota, may be preempted.'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='preemption_grace_s',
            field=models.PositiveIntegerField(default=60, help_text='Seconds from the notice of a preemption to the end.'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='preemption_min_run_s',
            field=models.PositiveIntegerField(default=600, help_text='Seconds that a job runs before it may be preempted.'),
        ),
    ]
