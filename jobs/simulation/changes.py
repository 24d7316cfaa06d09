"""A snapshot as it would be with another quota, without a node, or with more GPUs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from jobs.placement import NodeView, Snapshot

# Ids that no row has; those of GPUs that a world makes up are below zero.
FIRST_ID = 2**62


@dataclass(frozen=True, slots=True)
class Addition:
    """So many more GPUs of a model, on new nodes of so many each."""

    cluster_id: int
    model: str
    gpus: int
    gpus_per_node: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different. ``quotas`` by tenant; ``drained`` nodes take nothing new; ``prices`` by GPU model, with their
    currency, are for jobs that start from now on."""

    quotas: Mapping[int, int] = field(default_factory=dict)
    drained: frozenset[int] = frozenset()
    additions: Sequence[Addition] = ()
    prices: Mapping[str, tuple[str, Decimal]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.quotas or self.drained or self.additions or self.prices)

    def new_hostnames(self) -> dict[int, str]:
        """What the nodes that are added are called, by id."""
        return {node.node_id: node.hostname for node in _new_nodes(self.additions)}


def changed(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """The snapshot with the changes made. What runs on a drained node runs on, and leaves nothing behind."""
    nodes = [node for node in snapshot.nodes if node.node_id not in changes.drained]
    largest = dict(snapshot.largest_node)
    for node in _new_nodes(changes.additions):
        nodes.append(node)
        for model, gpus in node.free.items():
            largest[node.cluster_id, model] = max(largest.get((node.cluster_id, model), 0), len(gpus))
    running = [
        replace(one, nodes={node_id: gpus for node_id, gpus in one.nodes.items() if node_id not in changes.drained})
        for one in snapshot.running
    ]
    return replace(
        snapshot,
        nodes=nodes,
        running=running,
        largest_node=largest,
        gpu_total=snapshot.gpu_total + sum(one.gpus for one in changes.additions),
        tenants={
            pk: replace(tenant, quota=changes.quotas.get(pk, tenant.quota)) for pk, tenant in snapshot.tenants.items()
        },
    )


def _new_nodes(additions: Sequence[Addition]) -> Iterator[NodeView]:
    number, gpu_id = 0, FIRST_ID
    for one in additions:
        left = one.gpus
        while left:
            size = min(left, one.gpus_per_node)
            number, left = number + 1, left - size
            gpus = range(gpu_id, gpu_id + size)
            gpu_id += size
            yield NodeView(FIRST_ID + number, one.cluster_id, f"new-{number}", {one.model: gpus})
