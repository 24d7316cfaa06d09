"""Seller, buyer and tax of an invoice, frozen with it."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0011_frozen_notes'),
    ]

    operations = [
        migrations.AddField(
            model_name='invoice',
            name='particulars',
            field=models.JSONField(blank=True, default=dict, help_text='Seller, buyer and tax as they were when it was finalised.'),
        ),
    ]
