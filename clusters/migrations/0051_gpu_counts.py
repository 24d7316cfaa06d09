"""How many GPUs of each model a cluster has in service, so that a submission need not count them."""

from django.db import migrations

# A count stands only while the hardware is what was counted. Whatever changes it, by whatever code, deletes the count of
# its cluster in its own transaction, and who needs it counts anew (clusters/services/counts.py). Whoever counts locks
# the cluster's row against those who change its hardware, and they share it here, if they have not before: so nothing
# is counted that is about to be another. A node never moves to another cluster. The table has no foreign key, so that it
# may be emptied with the GPUs by any means.
COUNTS = """
CREATE TABLE clusters_gpucount (cluster_id bigint PRIMARY KEY, by_model jsonb NOT NULL);

CREATE FUNCTION clusters_forget_gpu_count(nodes bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    touched bigint[] := ARRAY(SELECT DISTINCT cluster_id FROM clusters_node WHERE id = ANY(nodes));
BEGIN
    PERFORM FROM clusters_cluster WHERE id = ANY(touched) ORDER BY id FOR SHARE;
    DELETE FROM clusters_gpucount WHERE cluster_id = ANY(touched);
END $$;

CREATE FUNCTION clusters_gpus_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM clusters_forget_gpu_count(array_agg(DISTINCT node_id)) FROM new_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION clusters_gpus_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM clusters_forget_gpu_count(array_agg(DISTINCT node_id)) FROM old_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION clusters_gpu_became_another() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM clusters_forget_gpu_count(ARRAY[OLD.node_id, NEW.node_id]);
    RETURN NULL;
END $$;

CREATE FUNCTION clusters_forget_gpu_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM clusters_gpucount;
    RETURN NULL;
END $$;

CREATE TRIGGER clusters_gpus_came AFTER INSERT ON clusters_gpu REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION clusters_gpus_came();
CREATE TRIGGER clusters_gpus_went AFTER DELETE ON clusters_gpu REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION clusters_gpus_went();
-- A row at a time, since only that is free of cost where a GPU's state alone changes, which is what GPUs do.
CREATE TRIGGER clusters_gpu_became_another AFTER UPDATE OF node_id, model, retired_at ON clusters_gpu
    FOR EACH ROW WHEN ((OLD.node_id, OLD.model, OLD.retired_at) IS DISTINCT FROM (NEW.node_id, NEW.model, NEW.retired_at))
    EXECUTE FUNCTION clusters_gpu_became_another();
CREATE TRIGGER clusters_gpus_emptied AFTER TRUNCATE ON clusters_gpu
    FOR EACH STATEMENT EXECUTE FUNCTION clusters_forget_gpu_counts();
"""
NO_COUNTS = """
DROP TRIGGER clusters_gpus_came ON clusters_gpu;
DROP TRIGGER clusters_gpus_went ON clusters_gpu;
DROP TRIGGER clusters_gpu_became_another ON clusters_gpu;
DROP TRIGGER clusters_gpus_emptied ON clusters_gpu;
DROP FUNCTION clusters_gpus_came(), clusters_gpus_went(), clusters_gpu_became_another(), clusters_forget_gpu_counts();
DROP FUNCTION clusters_forget_gpu_count(bigint[]);
DROP TABLE clusters_gpucount;
"""


class Migration(migrations.Migration):
    dependencies = [("clusters", "0050_execution_enabled")]

    operations = [migrations.RunSQL(COUNTS, NO_COUNTS)]
