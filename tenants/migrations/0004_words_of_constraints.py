"""What a person is told whose tenant a constraint refuses. Nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0003_borrowing'),
    ]

    operations = [
        migrations.AlterConstraint(
            model_name='tenant',
            name='tenant_quota_at_least_one',
            constraint=models.CheckConstraint(condition=models.Q(('gpu_quota__gte', 1)), name='tenant_quota_at_least_one', violation_error_message='The quota is 1 GPU at least. To stop a tenant, make it inactive.'),
        ),
    ]
