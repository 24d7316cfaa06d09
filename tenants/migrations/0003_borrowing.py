"""Lending and borrowing of idle quota."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0002_billing_particulars'),
    ]

    operations = [
        migrations.AddField(
            model_name='tenant',
            name='borrow_limit',
            field=models.PositiveIntegerField(default=0, help_text='GPUs above its own quota that it may hold while others lend; reclaimed first.'),
        ),
        migrations.AddField(
            model_name='tenant',
            name='lends_idle_quota',
            field=models.BooleanField(default=False, help_text='Others may use what it leaves idle of its quota, until its own jobs need it.'),
        ),
    ]
