"""Whether agents may run what jobs bring. Off, as long as nobody turns it on."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0026_preemption")]

    operations = [
        migrations.AddField(
            model_name="cluster",
            name="execution_enabled",
            field=models.BooleanField(
                default=False, help_text="Let agents that execute run the commands and images of jobs."
            ),
        ),
    ]
