from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0052_one_index_is_enough'),
    ]

    operations = [
        migrations.AddField(
            model_name='startestimate',
            name='source',
            field=models.CharField(choices=[('scheduler', "The scheduler's reservations"), ('explanation', 'Explanations'), ('what_if', 'What-if answers')], db_default='scheduler', max_length=16),
        ),
    ]
