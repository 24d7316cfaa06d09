from django.db import migrations

# Frames that are still to be forwarded to REMOTE_WRITE_URL: appended in the samples' transaction, taken out after the
# other side has answered. Empty where nothing is forwarded.
FORWARD = """
CREATE TABLE clusters_metricoutbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL
);
"""
BACKWARD = "DROP TABLE clusters_metricoutbox;"


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0023_gpu_faults'),
    ]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD, hints={"samples": True}),
    ]
