"""Everything that changes clusters, nodes and GPUs.

Locks are taken in the order of the house: scheduler, clusters, nodes by id, GPUs by id.
"""

from clusters.services.counts import share_gpu_counts
from clusters.services.fleet import (
    ClusterBusy,
    ClusterChanges,
    ClusterNameTaken,
    CreatedCluster,
    create_cluster,
    decommission_cluster,
    update_cluster,
)
from clusters.services.gpus import (
    FaultIsOver,
    GpuBusy,
    GpuFields,
    GpuRegistration,
    GpuRetired,
    mark_health,
    mark_many,
    register_gpus,
    retire_gpu,
)
from clusters.services.ledger import refresh_gpu_states
from clusters.services.metrics import record_batch, record_samples, take_news
from clusters.services.nodes import (
    HostnameTaken,
    NodeFields,
    NodeRegistration,
    register_node,
    sweep_silent_nodes,
    turn_nodes,
    update_node,
)

__all__ = [
    "ClusterBusy",
    "ClusterChanges",
    "ClusterNameTaken",
    "CreatedCluster",
    "FaultIsOver",
    "GpuBusy",
    "GpuFields",
    "GpuRegistration",
    "GpuRetired",
    "HostnameTaken",
    "NodeFields",
    "NodeRegistration",
    "create_cluster",
    "decommission_cluster",
    "mark_health",
    "mark_many",
    "record_batch",
    "record_samples",
    "refresh_gpu_states",
    "register_gpus",
    "register_node",
    "retire_gpu",
    "share_gpu_counts",
    "sweep_silent_nodes",
    "take_news",
    "turn_nodes",
    "update_cluster",
    "update_node",
]
