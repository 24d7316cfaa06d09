"""What a person is told whose rate, rule or note a constraint refuses. Nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0021_words_of_flags'),
        ('tenants', '0004_words_of_constraints'),
    ]

    operations = [
        migrations.AlterConstraint(
            model_name='creditnote',
            name='credit_note_positive',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='credit_note_positive', violation_error_message='The amount is above 0.'),
        ),
        migrations.AlterConstraint(
            model_name='rate',
            name='rate_price_not_negative',
            constraint=models.CheckConstraint(condition=models.Q(('price_per_gpu_hour__gte', 0)), name='rate_price_not_negative', violation_error_message='The price is 0 or above.'),
        ),
        migrations.AlterConstraint(
            model_name='rate',
            name='rate_increment_at_least_one',
            constraint=models.CheckConstraint(condition=models.Q(('increment_seconds__gte', 1)), name='rate_increment_at_least_one', violation_error_message='The increment is 1 second at least.'),
        ),
        migrations.AlterConstraint(
            model_name='rate',
            name='rate_currency_code',
            constraint=models.CheckConstraint(condition=models.Q(('currency__regex', '^[A-Z]{3}$')), name='rate_currency_code', violation_error_message='The currency is a code of ISO 4217, such as USD.'),
        ),
        migrations.AlterConstraint(
            model_name='rate',
            name='rate_for_plan_or_tenant_not_both',
            constraint=models.CheckConstraint(condition=models.Q(('plan_tier', ''), ('tenant__isnull', True), _connector='OR'), name='rate_for_plan_or_tenant_not_both', violation_error_message='A plan or a tenant, not both; neither is for all.'),
        ),
        migrations.AlterConstraint(
            model_name='servicelevel',
            name='service_level_percent',
            constraint=models.CheckConstraint(condition=models.Q(('credit_percent__lte', 100)), name='service_level_percent', violation_error_message='The credit is 100 percent at most.'),
        ),
        migrations.AlterConstraint(
            model_name='servicelevel',
            name='service_level_for_plan_or_tenant',
            constraint=models.CheckConstraint(condition=models.Q(('plan_tier', ''), ('tenant__isnull', True), _connector='OR'), name='service_level_for_plan_or_tenant', violation_error_message='A plan or a tenant, not both; neither is for all.'),
        ),
    ]
