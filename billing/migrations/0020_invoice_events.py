"""Who moved an invoice, when and why. Rows are only ever added: the database refuses the rest."""

import django.db.models.deletion
from django.db import migrations, models


APPEND_ONLY = """
CREATE FUNCTION billing_keep_invoice_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM billing_refuse('what happened to an invoice is never changed');
    RETURN NULL;
END $$;

CREATE TRIGGER invoice_event_append_only BEFORE UPDATE OR DELETE ON billing_invoiceevent
    FOR EACH ROW EXECUTE FUNCTION billing_keep_invoice_event();
"""
NOT_APPEND_ONLY = """
DROP TRIGGER invoice_event_append_only ON billing_invoiceevent;
DROP FUNCTION billing_keep_invoice_event();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0012_invoice_particulars'),
    ]

    operations = [
        migrations.CreateModel(
            name='InvoiceEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('from_status', models.CharField(choices=[('draft', 'Draft'), ('open', 'Open'), ('paid', 'Paid'), ('void', 'Void'), ('uncollectible', 'Uncollectible')], max_length=16)),
                ('to_status', models.CharField(choices=[('draft', 'Draft'), ('open', 'Open'), ('paid', 'Paid'), ('void', 'Void'), ('uncollectible', 'Uncollectible')], max_length=16)),
                ('actor', models.CharField(help_text='key:<id>, user:<name> or stripe.', max_length=200)),
                ('reason', models.CharField(blank=True, default='', max_length=500)),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='events', to='billing.invoice')),
            ],
            options={
                'ordering': ['-pk'],
            },
        ),
        migrations.RunSQL(APPEND_ONLY, NOT_APPEND_ONLY),
    ]
