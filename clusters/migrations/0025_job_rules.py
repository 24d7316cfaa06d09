"""What a cluster does with a job that loses its node or runs past its estimate."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0001_initial"),
        ("clusters", "0024_metric_outbox"),
    ]

    operations = [
        migrations.AddField(
            model_name="cluster",
            name="enforce_time_limit",
            field=models.BooleanField(default=False, help_text="Fail a job that runs past its own estimate."),
        ),
        migrations.AddField(
            model_name="cluster",
            name="on_node_loss",
            field=models.CharField(
                choices=[("fail", "Fail"), ("requeue", "Requeue")],
                default="fail",
                help_text="What becomes of a job that loses a node.",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="cluster",
            constraint=models.CheckConstraint(
                condition=models.Q(("on_node_loss__in", ["fail", "requeue"])), name="cluster_on_node_loss_known"
            ),
        ),
    ]
