"""Ten rolled days summed up once more, for reports over months."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0002_metric_partitions'),
        ('jobs', '0003_rollup_parts'),
    ]

    operations = [
        migrations.CreateModel(
            name='LedgerBlock',
            fields=[
                ('first_day', models.DateField(primary_key=True, serialize=False)),
                ('rolled_at', models.DateTimeField()),
            ],
            options={
                'ordering': ['-first_day'],
            },
        ),
        migrations.CreateModel(
            name='GpuBlock',
            fields=[
                ('registered', models.BigIntegerField()),
                ('sold', models.BigIntegerField()),
                ('could_have_run', models.BigIntegerField()),
                ('fragmented', models.BigIntegerField()),
                ('held_by_quota', models.BigIntegerField()),
                ('no_demand', models.BigIntegerField()),
                ('draining', models.BigIntegerField()),
                ('maintenance', models.BigIntegerField()),
                ('unhealthy', models.BigIntegerField()),
                ('offline', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('first_day', 'gpu', blank=True, editable=False, primary_key=True, serialize=False)),
                ('first_day', models.DateField()),
                ('gpu', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clusters.gpu')),
            ],
            options={
                'verbose_name': 'GPU block',
                'constraints': [models.CheckConstraint(condition=models.Q(('registered', django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('sold'), '+', models.F('could_have_run')), '+', models.F('fragmented')), '+', models.F('held_by_quota')), '+', models.F('no_demand')), '+', models.F('draining')), '+', models.F('maintenance')), '+', models.F('unhealthy')), '+', models.F('offline')))), name='gpu_block_adds_up')],
            },
        ),
    ]
