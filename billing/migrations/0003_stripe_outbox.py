"""Stripe's customers, differences and events as the sender writes them. The outbox is made anew: nothing ever wrote to it."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0002_frozen_rows'),
        ('tenants', '0001_initial'),
    ]

    operations = [
        migrations.DeleteModel(
            name='OutboxMessage',
        ),
        migrations.RemoveField(
            model_name='stripeevent',
            name='handled_at',
        ),
        migrations.AddField(
            model_name='stripeevent',
            name='invoice',
            field=models.ForeignKey(blank=True, help_text='If of ours.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='stripe_events', to='billing.invoice'),
        ),
        migrations.AddField(
            model_name='stripeevent',
            name='outcome',
            field=models.CharField(blank=True, default='', help_text='What it changed, or why nothing.', max_length=500),
        ),
        migrations.CreateModel(
            name='StripeCustomer',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('reference', models.UUIDField(help_text="Stands in Stripe's metadata.", unique=True)),
                ('stripe_id', models.CharField(blank=True, default='', max_length=255)),
                ('created_at', models.DateTimeField()),
                ('tenant', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='stripe_customer', to='tenants.tenant')),
            ],
            options={
                'ordering': ['-pk'],
            },
        ),
        migrations.CreateModel(
            name='OutboxMessage',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('step', models.CharField(choices=[('customer', 'Create the customer'), ('create', 'Create the invoice'), ('item', 'Add a line'), ('finalise', 'Finalise'), ('send', 'Send'), ('credit', 'Credit'), ('pay', 'Mark as paid'), ('write_off', 'Mark as uncollectible'), ('void', 'Void')], max_length=16)),
                ('reference', models.UUIDField()),
                ('generation', models.PositiveSmallIntegerField(default=1)),
                ('key_made_at', models.DateTimeField(help_text='Stripe forgets a key a day later.')),
                ('uncertain', models.BooleanField(default=False, help_text='The last try may or may not have acted.')),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('done', 'Done'), ('dead', 'Dead letter')], default='pending', max_length=16)),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField()),
                ('last_error', models.CharField(blank=True, default='', max_length=500)),
                ('result', models.CharField(blank=True, default='', help_text='What it made, or why it was not needed.', max_length=255)),
                ('created_at', models.DateTimeField()),
                ('done_at', models.DateTimeField(blank=True, null=True)),
                ('credit_note', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.creditnote')),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='outbox', to='billing.invoice')),
                ('line', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.invoiceline')),
            ],
            options={
                'ordering': ['-pk'],
                'indexes': [models.Index(condition=models.Q(('status', 'pending')), fields=['next_attempt_at'], name='outbox_due'), models.Index(condition=models.Q(('status', 'done'), _negated=True), fields=['invoice', 'id'], name='outbox_unfinished')],
                'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'done', 'dead'])), name='outbox_status_known'), models.CheckConstraint(condition=models.Q(('step__in', ['customer', 'create', 'item', 'finalise', 'send', 'credit', 'pay', 'write_off', 'void'])), name='outbox_step_known'), models.UniqueConstraint(fields=('invoice', 'step', 'line', 'credit_note'), name='outbox_step_once', nulls_distinct=False)],
            },
        ),
        migrations.CreateModel(
            name='StripeDifference',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('stripe_invoice_id', models.CharField(max_length=255)),
                ('what', models.CharField(max_length=32)),
                ('ours', models.CharField(max_length=255)),
                ('theirs', models.CharField(max_length=255)),
                ('found_at', models.DateTimeField()),
                ('last_seen_at', models.DateTimeField()),
                ('gone_at', models.DateTimeField(blank=True, help_text='When a comparison no longer found it.', null=True)),
                ('invoice', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='stripe_differences', to='billing.invoice')),
            ],
            options={
                'ordering': ['-pk'],
                'constraints': [models.UniqueConstraint(condition=models.Q(('gone_at__isnull', True)), fields=('stripe_invoice_id', 'what'), name='stripe_difference_once')],
            },
        ),
    ]
