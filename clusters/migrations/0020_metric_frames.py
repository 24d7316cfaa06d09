from django.db import migrations

# A frame holds what the GPUs of one node read at one instant, an array for each figure, in the order of gpu_ids. It
# costs a third of the disk and a tenth of the index of a row for each sample. Utilisation, temperature and power are
# thousandths, so that sums and averages are exact; an array that is NULL was not measured.
# The samples of before are moved day by day, inside this migration's transaction.
FORWARD = """
ALTER TABLE clusters_metricsample RENAME TO clusters_metricsample_old;
ALTER INDEX metric_sample_by_gpu RENAME TO metric_sample_by_gpu_old;

CREATE TABLE clusters_metricframe (
    node_id bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    gpu_ids bigint[] NOT NULL,
    utilization integer[],
    memory_used integer[],
    memory_total integer[],
    temperature integer[],
    power integer[],
    xid integer[]
) PARTITION BY RANGE (recorded_at);

-- Serves GET /api/clusters/gpus/{id}/metrics: one node's window. Not unique, since uniqueness would cost every write.
CREATE INDEX metric_frame_by_node ON clusters_metricframe (node_id, recorded_at);
-- Serves the rollup: everything of one hour.
CREATE INDEX metric_frame_by_time ON clusters_metricframe
    USING brin (recorded_at) WITH (pages_per_range = 16, autosummarize = on);

CREATE VIEW clusters_metricsample AS
SELECT
    reading.gpu_id,
    frame.recorded_at,
    reading.utilization / 1000.0::double precision AS utilization_pct,
    reading.memory_used AS memory_used_mb,
    reading.memory_total AS memory_total_mb,
    reading.temperature / 1000.0::double precision AS temperature_c,
    reading.power / 1000.0::double precision AS power_draw_w,
    reading.xid
FROM clusters_metricframe AS frame
CROSS JOIN LATERAL unnest(
    frame.gpu_ids, frame.utilization, frame.memory_used, frame.memory_total, frame.temperature, frame.power, frame.xid
) AS reading (gpu_id, utilization, memory_used, memory_total, temperature, power, xid);

DO $$
DECLARE
    old regclass;
    day text;
BEGIN
    FOR old, day IN
        SELECT child.oid::regclass, right(child.relname, 8) FROM pg_inherits
        JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'clusters_metricsample_old'::regclass
    LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF clusters_metricframe FOR VALUES FROM (%L) TO (%L)',
            'clusters_metricframe_' || day, day || ' 00:00:00+00', (day::date + 1)::text || ' 00:00:00+00'
        );
        EXECUTE format(
            'INSERT INTO clusters_metricframe
             SELECT gpu.node_id, old.recorded_at, array_agg(gpu_id),
                    array_agg(round(utilization_pct * 1000)::int), array_agg(memory_used_mb),
                    array_agg(memory_total_mb), array_agg(round(temperature_c * 1000)::int),
                    array_agg(round(power_draw_w * 1000)::int), array_agg(xid)
             FROM %s AS old JOIN clusters_gpu AS gpu ON gpu.id = old.gpu_id
             GROUP BY gpu.node_id, old.recorded_at', old
        );
    END LOOP;
END $$;

DROP TABLE clusters_metricsample_old;
"""
BACKWARD = """
CREATE TABLE clusters_metricsample_old (
    gpu_id bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    utilization_pct double precision,
    memory_used_mb integer,
    memory_total_mb integer,
    temperature_c double precision,
    power_draw_w double precision,
    xid integer
) PARTITION BY RANGE (recorded_at);
CREATE INDEX metric_sample_by_gpu ON clusters_metricsample_old (gpu_id, recorded_at);

DO $$
DECLARE
    day text;
BEGIN
    FOR day IN
        SELECT right(child.relname, 8) FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'clusters_metricframe'::regclass
    LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF clusters_metricsample_old FOR VALUES FROM (%L) TO (%L)',
            'clusters_metricsample_' || day, day || ' 00:00:00+00', (day::date + 1)::text || ' 00:00:00+00'
        );
    END LOOP;
END $$;

INSERT INTO clusters_metricsample_old SELECT * FROM clusters_metricsample;
DROP VIEW clusters_metricsample;
DROP TABLE clusters_metricframe;
ALTER TABLE clusters_metricsample_old RENAME TO clusters_metricsample;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0002_metric_partitions'),
    ]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD, hints={"samples": True}),
    ]
