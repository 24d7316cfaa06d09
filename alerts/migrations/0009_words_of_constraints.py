"""What a person is told whose maintenance window a constraint refuses. Nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0008_words_of_flags'),
        ('clusters', '0054_words_of_flags'),
    ]

    operations = [
        migrations.AlterConstraint(
            model_name='maintenancewindow',
            name='maintenance_of_cluster_or_node',
            constraint=models.CheckConstraint(condition=models.Q(('cluster__isnull', True), ('node__isnull', True), _connector='XOR'), name='maintenance_of_cluster_or_node', violation_error_message='Choose a cluster or a node, and not both.'),
        ),
        migrations.AlterConstraint(
            model_name='maintenancewindow',
            name='maintenance_ends_after_its_start',
            constraint=models.CheckConstraint(condition=models.Q(('ends_at__gte', models.F('starts_at'))), name='maintenance_ends_after_its_start', violation_error_message='The end lies after the start.'),
        ),
    ]
