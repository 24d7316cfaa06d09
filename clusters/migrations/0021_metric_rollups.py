from django.db import migrations

# What the samples of one GPU in one hour, or on one day (UTC), amount to, each counted once. Utilisation, temperature
# and power are thousandths. The partitions are months: see clusters/partitions.py. Written by clusters/rollups.py alone.
FORWARD = """
CREATE TABLE clusters_metrichour (
    gpu_id bigint NOT NULL,
    start timestamp with time zone NOT NULL,
    samples integer NOT NULL,
    utilization_count integer NOT NULL,
    utilization_min integer,
    utilization_max integer,
    utilization_sum bigint,
    utilization_last integer,
    memory_used_count integer NOT NULL,
    memory_used_min integer,
    memory_used_max integer,
    memory_used_sum bigint,
    memory_used_last integer,
    memory_total_count integer NOT NULL,
    memory_total_min integer,
    memory_total_max integer,
    memory_total_sum bigint,
    memory_total_last integer,
    temperature_count integer NOT NULL,
    temperature_min integer,
    temperature_max integer,
    temperature_sum bigint,
    temperature_last integer,
    power_count integer NOT NULL,
    power_min integer,
    power_max integer,
    power_sum bigint,
    power_last integer,
    PRIMARY KEY (gpu_id, start)
) PARTITION BY RANGE (start);

-- Serves the rollup of a day: the hours of all GPUs.
CREATE INDEX metric_hour_by_time ON clusters_metrichour USING brin (start) WITH (pages_per_range = 16);

CREATE TABLE clusters_metricday (
    gpu_id bigint NOT NULL,
    start timestamp with time zone NOT NULL,
    samples integer NOT NULL,
    utilization_count integer NOT NULL,
    utilization_min integer,
    utilization_max integer,
    utilization_sum bigint,
    utilization_last integer,
    memory_used_count integer NOT NULL,
    memory_used_min integer,
    memory_used_max integer,
    memory_used_sum bigint,
    memory_used_last integer,
    memory_total_count integer NOT NULL,
    memory_total_min integer,
    memory_total_max integer,
    memory_total_sum bigint,
    memory_total_last integer,
    temperature_count integer NOT NULL,
    temperature_min integer,
    temperature_max integer,
    temperature_sum bigint,
    temperature_last integer,
    power_count integer NOT NULL,
    power_min integer,
    power_max integer,
    power_sum bigint,
    power_last integer,
    PRIMARY KEY (gpu_id, start)
) PARTITION BY RANGE (start);

-- What the GPUs did in the seconds that were sold on a day, as far as they reported: busy_seconds are sold seconds times
-- utilisation, idle_seconds those of hours with less than 5 % on average. Serves fleet figures over months.
CREATE TABLE clusters_metricfleetday (
    day timestamp with time zone NOT NULL,
    cluster_id bigint NOT NULL,
    model varchar(100) NOT NULL,
    sold_seconds double precision NOT NULL,
    busy_seconds double precision NOT NULL,
    idle_seconds double precision NOT NULL,
    PRIMARY KEY (day, cluster_id, model)
);

-- Until when the hours are rolled up. One row, ever.
CREATE TABLE clusters_metricrollup (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    hours_until timestamp with time zone NOT NULL
);

-- Hours of nodes for which samples came after the hour was over. One row for each such batch: appended by the writer in
-- the samples' transaction, taken out by the rollup. Never updated, so that no writer waits.
CREATE TABLE clusters_metriclate (
    node_id bigint NOT NULL,
    hour timestamp with time zone NOT NULL
);
-- Serves the read of one GPU: from when on the rollups of its node are not to be believed yet.
CREATE INDEX metric_late_by_node ON clusters_metriclate (node_id, hour);
"""
BACKWARD = """
DROP TABLE clusters_metriclate;
DROP TABLE clusters_metricrollup;
DROP TABLE clusters_metricfleetday;
DROP TABLE clusters_metricday;
DROP TABLE clusters_metrichour;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0020_metric_frames'),
    ]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD, hints={"samples": True}),
    ]
