from django.db import migrations

# Partitions are made by the day, ahead of time and by the first write that needs one: see clusters/partitions.py.
CREATE = """
CREATE TABLE clusters_metricsample (
    gpu_id bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    utilization_pct double precision,
    memory_used_mb integer,
    memory_total_mb integer,
    temperature_c double precision,
    power_draw_w double precision,
    xid integer
) PARTITION BY RANGE (recorded_at);

-- Serves GET /api/clusters/gpus/{id}/metrics: one GPU's window. Not unique, since uniqueness would cost every write.
CREATE INDEX metric_sample_by_gpu ON clusters_metricsample (gpu_id, recorded_at);
"""
DROP = "DROP TABLE clusters_metricsample;"


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0001_initial'),
    ]

    operations = [
        migrations.RunSQL(CREATE, DROP, hints={"samples": True}),
    ]
