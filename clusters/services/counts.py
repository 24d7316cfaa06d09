"""How many GPUs of each model a cluster has: counted when somebody asks, and kept until the hardware changes."""

import json
from collections.abc import Collection, Mapping

from django.db import connection

from clusters.models import Cluster
from gpufleet.common.locks import lock_rows

# Who changes the hardware deletes the row, for which it waits until this lock is gone.
SHARE = """
SELECT cluster_id, by_model::text FROM clusters_gpucount WHERE cluster_id = ANY(%s) ORDER BY cluster_id FOR KEY SHARE
"""
COUNT = """
INSERT INTO clusters_gpucount (cluster_id, by_model)
SELECT cluster.id, coalesce(jsonb_object_agg(model.name, model.gpus) FILTER (WHERE model.gpus IS NOT NULL), '{}')
  FROM unnest(%s::bigint[]) AS cluster (id)
  LEFT JOIN (SELECT node.cluster_id, gpu.model AS name, count(*) AS gpus
               FROM clusters_gpu AS gpu JOIN clusters_node AS node ON node.id = gpu.node_id
              WHERE gpu.retired_at IS NULL AND node.cluster_id = ANY(%s)
              GROUP BY node.cluster_id, gpu.model) AS model ON model.cluster_id = cluster.id
 GROUP BY cluster.id
ON CONFLICT DO NOTHING
"""


def share_gpu_counts(cluster_ids: Collection[int]) -> Mapping[int, Mapping[str, int]]:
    """GPUs in service by model, whatever their state, of each cluster; they stay so until the transaction ends.

    A cluster whose hardware has changed is counted first, and locked for that, in the order of the house.
    """
    counts = _share(cluster_ids)
    missing = sorted(set(cluster_ids) - counts.keys())
    if missing:
        lock_rows(Cluster.objects.all(), missing)
        with connection.cursor() as cursor:
            cursor.execute(COUNT, [missing, missing])
        counts |= _share(missing)
    return counts


def _share(cluster_ids: Collection[int]) -> dict[int, dict[str, int]]:
    with connection.cursor() as cursor:
        cursor.execute(SHARE, [sorted(cluster_ids)])
        return {cluster_id: json.loads(by_model) for cluster_id, by_model in cursor.fetchall()}
