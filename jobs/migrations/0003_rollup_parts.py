import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Days that are cut where prices change. What was kept says nothing that the ledger does not, so it is made anew."""

    dependencies = [
        ('jobs', '0002_ledger_rollup'),
    ]

    operations = [
        migrations.RunSQL("DELETE FROM jobs_ledgerday", "DELETE FROM jobs_ledgerday"),
        migrations.AddField(
            model_name='ledgerday',
            name='cuts',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.DateTimeField(), default=list, help_text='Where the day is cut into parts: a price changed at these instants.', size=None),
        ),
        migrations.DeleteModel(name='GpuDay'),
        migrations.DeleteModel(name='SalesDay'),
        migrations.CreateModel(
            name='GpuDay',
            fields=[
                ('pk', models.CompositePrimaryKey('start', 'gpu', blank=True, editable=False, primary_key=True, serialize=False)),
                ('start', models.DateTimeField()),
                ('gpu', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clusters.gpu')),
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
            ],
            options={
                'verbose_name': 'GPU day',
            },
        ),
        migrations.CreateModel(
            name='SalesDay',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('start', models.DateTimeField()),
                ('model', models.CharField(blank=True, max_length=100)),
                ('rate_id', models.BigIntegerField(null=True)),
                ('price_per_gpu_hour', models.DecimalField(decimal_places=6, max_digits=14, null=True)),
                ('currency', models.CharField(blank=True, max_length=3)),
                ('held', models.BigIntegerField()),
                ('cluster', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clusters.cluster')),
                ('tenant', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='tenants.tenant')),
            ],
        ),
        migrations.AddConstraint(
            model_name='gpuday',
            constraint=models.CheckConstraint(condition=models.Q(('registered', django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('sold'), '+', models.F('could_have_run')), '+', models.F('fragmented')), '+', models.F('held_by_quota')), '+', models.F('no_demand')), '+', models.F('draining')), '+', models.F('maintenance')), '+', models.F('unhealthy')), '+', models.F('offline')))), name='gpu_day_adds_up'),
        ),
        migrations.AddConstraint(
            model_name='salesday',
            constraint=models.UniqueConstraint(fields=('start', 'cluster', 'model', 'tenant', 'rate_id', 'price_per_gpu_hour', 'currency'), name='sales_day_once', nulls_distinct=False),
        ),
    ]
