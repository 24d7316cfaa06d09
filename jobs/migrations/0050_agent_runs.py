"""What agents report of the jobs that they run."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0050_execution_enabled'),
        ('jobs', '0021_preemption'),
    ]

    operations = [
        migrations.CreateModel(
            name='Run',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('run_id', models.BigIntegerField()),
                ('rank', models.PositiveIntegerField(help_text="The node's place among the job's nodes.")),
                ('state', models.CharField(choices=[('started', 'Started'), ('exited', 'Exited'), ('refused', 'Refused')], max_length=16)),
                ('exit_code', models.IntegerField(blank=True, help_text='Negative: the signal that ended it.', null=True)),
                ('message', models.CharField(blank=True, default='', max_length=500)),
                ('log_tail', models.TextField(blank=True, default='', help_text='The last lines of what it said.')),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
                ('job', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='runs', to='jobs.job')),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='runs', to='clusters.node')),
            ],
            options={
                'ordering': ['-pk'],
                'indexes': [models.Index(fields=['job', 'id'], name='run_by_job')],
                'constraints': [models.UniqueConstraint(fields=('run_id', 'node'), name='run_once_a_node'), models.CheckConstraint(condition=models.Q(('state__in', ['started', 'exited', 'refused'])), name='run_state_known'), models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('state', 'started')), models.Q(models.Q(('state', 'started'), _negated=True), ('ended_at__isnull', False)), _connector='OR'), name='run_ended_when_over')],
            },
        ),
    ]
