"""Service-level rules, the seconds that credit notes give back, and what a note is about."""

import django.contrib.postgres.constraints
import django.contrib.postgres.fields
import django.contrib.postgres.fields.ranges
import django.db.models.deletion
from django.db import migrations, models

# Notes that were declined before reasons were asked for say so. They are frozen, so the trigger stands aside for it.
FILL = """
ALTER TABLE billing_creditnote DISABLE TRIGGER credit_note_frozen;
UPDATE billing_creditnote SET decision_reason = 'No reason was recorded.' WHERE status = 'declined';
ALTER TABLE billing_creditnote ENABLE TRIGGER credit_note_frozen;
"""
UNFILL = """
ALTER TABLE billing_creditnote DISABLE TRIGGER credit_note_frozen;
UPDATE billing_creditnote SET status = 'declined' WHERE status = 'withdrawn';
ALTER TABLE billing_creditnote ENABLE TRIGGER credit_note_frozen;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0003_stripe_outbox'),
        ('tenants', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='CreditedRange',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('during', django.contrib.postgres.fields.ranges.DateTimeRangeField()),
                ('released_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['pk'],
            },
        ),
        migrations.CreateModel(
            name='ServiceLevel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200)),
                ('plan_tier', models.CharField(blank=True, choices=[('starter', 'Starter'), ('pro', 'Pro'), ('growth', 'Growth'), ('enterprise', 'Enterprise')], default='', max_length=16)),
                ('states', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('draining', 'Draining'), ('maintenance', 'Maintenance'), ('unhealthy', 'Unhealthy'), ('offline', 'Offline')], max_length=16), help_text='What counts as a fault.', size=None)),
                ('reason_starts_with', models.CharField(blank=True, default='', help_text='Empty: any reason.', max_length=100)),
                ('longer_than_seconds', models.PositiveIntegerField(help_text='A fault that lasts longer than this counts.')),
                ('credit_percent', models.PositiveSmallIntegerField(help_text='The share that is given back, 0 to 100.')),
                ('basis', models.CharField(choices=[('overlap', "The fault's own seconds"), ('allocation', 'The whole allocation'), ('day', 'The calendar days that the fault touches')], default='overlap', max_length=16)),
                ('effective_from', models.DateTimeField()),
                ('enabled', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField()),
                ('created_by', models.CharField(max_length=200)),
            ],
            options={
                'ordering': ['-pk'],
            },
        ),
        migrations.RemoveConstraint(
            model_name='creditnote',
            name='credit_note_status_known',
        ),
        migrations.AddField(
            model_name='creditnote',
            name='decision_reason',
            field=models.CharField(blank=True, default='', max_length=500),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='fault_id',
            field=models.BigIntegerField(blank=True, help_text="The GPU's state period behind it.", null=True),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='kind',
            field=models.CharField(choices=[('credit', 'Credit note'), ('debit', 'Debit note')], default='credit', max_length=8),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='origin',
            field=models.CharField(choices=[('manual', 'An amount by hand'), ('window', 'A window of time'), ('rate', 'A rate that was recorded late'), ('service_level', 'A service-level rule')], default='manual', max_length=16),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='percent',
            field=models.PositiveSmallIntegerField(default=100, help_text='Of the price of the seconds it credits.'),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='rate_ids',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), blank=True, default=list, help_text='The late rates that it brings to the invoice.', size=None),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='settled_at',
            field=models.DateTimeField(blank=True, help_text='When a debit note was paid.', null=True),
        ),
        migrations.AlterField(
            model_name='creditnote',
            name='status',
            field=models.CharField(choices=[('draft', 'Draft'), ('issued', 'Issued'), ('declined', 'Declined'), ('withdrawn', 'Withdrawn')], default='draft', max_length=16),
        ),
        migrations.AddField(
            model_name='creditedrange',
            name='billed_range',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='credited_ranges', to='billing.billedrange'),
        ),
        migrations.AddField(
            model_name='creditedrange',
            name='note',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='credited_ranges', to='billing.creditnote'),
        ),
        migrations.AddField(
            model_name='servicelevel',
            name='tenant',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='service_levels', to='tenants.tenant'),
        ),
        migrations.AddField(
            model_name='creditnote',
            name='service_level',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='credit_notes', to='billing.servicelevel'),
        ),
        migrations.RunSQL(FILL, UNFILL),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['draft', 'issued', 'declined', 'withdrawn'])), name='credit_note_status_known'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['credit', 'debit'])), name='credit_note_kind_known'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(('origin__in', ['manual', 'window', 'rate', 'service_level'])), name='credit_note_origin_known'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(('percent__lte', 100)), name='credit_note_percent'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'declined'), _negated=True), models.Q(('decision_reason', ''), _negated=True), _connector='OR'), name='credit_note_declined_with_reason'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(('settled_at__isnull', True), models.Q(('kind', 'debit'), ('status', 'issued')), _connector='OR'), name='credit_note_debit_settled'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('fault_id__isnull', False), ('origin', 'service_level'), ('service_level__isnull', False)), models.Q(models.Q(('origin', 'service_level'), _negated=True), ('fault_id__isnull', True), ('service_level__isnull', True)), _connector='OR'), name='credit_note_fault_of_service_level'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.UniqueConstraint(condition=models.Q(('origin', 'rate'), ('status', 'draft')), fields=('invoice',), name='credit_note_one_rate_draft'),
        ),
        migrations.AddConstraint(
            model_name='creditnote',
            constraint=models.UniqueConstraint(condition=models.Q(('origin', 'service_level'), models.Q(('status', 'withdrawn'), _negated=True)), fields=('invoice', 'service_level', 'fault_id'), name='credit_note_once_a_fault'),
        ),
        migrations.AddConstraint(
            model_name='creditedrange',
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(condition=models.Q(('released_at__isnull', True)), expressions=[('billed_range', '='), ('during', '&&')], name='second_credited_once'),
        ),
        migrations.AddConstraint(
            model_name='creditedrange',
            constraint=models.CheckConstraint(condition=models.Q(('during__isempty', False), ('during__lower_inf', False), ('during__upper_inf', False)), name='credited_range_bounded'),
        ),
        migrations.AddConstraint(
            model_name='servicelevel',
            constraint=models.CheckConstraint(condition=models.Q(('credit_percent__lte', 100)), name='service_level_percent'),
        ),
        migrations.AddConstraint(
            model_name='servicelevel',
            constraint=models.CheckConstraint(condition=models.Q(('basis__in', ['overlap', 'allocation', 'day'])), name='service_level_basis_known'),
        ),
        migrations.AddConstraint(
            model_name='servicelevel',
            constraint=models.CheckConstraint(condition=models.Q(('plan_tier__in', ['', 'starter', 'pro', 'growth', 'enterprise'])), name='service_level_plan_known'),
        ),
        migrations.AddConstraint(
            model_name='servicelevel',
            constraint=models.CheckConstraint(condition=models.Q(('plan_tier', ''), ('tenant__isnull', True), _connector='OR'), name='service_level_for_plan_or_tenant'),
        ),
        migrations.AddConstraint(
            model_name='servicelevel',
            constraint=models.CheckConstraint(condition=models.Q(('states__contained_by', ['draining', 'maintenance', 'unhealthy', 'offline']), ('states__len__gte', 1)), name='service_level_states_known'),
        ),
    ]
