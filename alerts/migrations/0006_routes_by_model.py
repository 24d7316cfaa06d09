from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("alerts", "0005_rules_of_all_types")]

    operations = [
        migrations.AddField(
            model_name="channel",
            name="gpu_model",
            field=models.CharField(blank=True, default="", help_text="Route: of this alone.", max_length=100),
        ),
    ]
