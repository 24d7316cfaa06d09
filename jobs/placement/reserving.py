"""When a job that can't start now could have its GPUs, by the estimates of what runs, and which those would be.

The reservation of EASY backfill: Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

NEVER = datetime.max.replace(tzinfo=UTC)  # Sorts behind every instant; stands for an end that nobody knows.


class End(NamedTuple):
    """So many GPUs of a node become free at this instant, or at ``NEVER`` when nobody knows."""

    at: datetime
    node_id: int
    gpus: int


class Shadow(NamedTuple):
    """From ``at`` on the job could have these GPUs, by node, beside which ``spare`` are free on those nodes."""

    at: datetime
    nodes: Mapping[int, int]
    spare: Mapping[int, int]


def shadow(free: Mapping[int, int], ends: Iterable[End], count: int, *, one_node: bool) -> Shadow | None:
    """The first instant at which so many GPUs are free, on one node or on any; None when there never are.

    ``free``: GPUs that are free now, by node. Of nodes that have them at the same instant the one counts where the
    fewest stay free.
    """
    ordered = sorted(ends)
    return _on_one(free, ordered, count) if one_node else _on_many(free, ordered, count)


def _on_one(free: Mapping[int, int], ends: Iterable[End], count: int) -> Shadow | None:
    sizes: dict[int, int] = defaultdict(int, free)
    found: set[int] = set()
    first = NEVER
    for at, node_id, gpus in ends:
        if found and at > first:
            break
        sizes[node_id] += gpus
        if sizes[node_id] >= count:
            found.add(node_id)
            first = at
    if not found:
        return None
    size, node_id = min((sizes[node_id], node_id) for node_id in found)
    return Shadow(first, {node_id: count}, {node_id: size - count})


def _enough_at(free: int, ends: Iterable[End], count: int) -> datetime | None:
    for end in ends:
        free += end.gpus
        if free >= count:
            return end.at
    return None


def _on_many(free: Mapping[int, int], ends: Iterable[End], count: int) -> Shadow | None:
    ordered = list(ends)
    at = _enough_at(sum(free.values()), ordered, count)
    if at is None:
        return None
    sizes: dict[int, int] = defaultdict(int, free)
    for end in ordered:
        if end.at <= at:
            sizes[end.node_id] += end.gpus
    nodes: dict[int, int] = {}
    for node_id in sorted(sizes, key=lambda node_id: (-sizes[node_id], node_id)):
        if count > 0 and sizes[node_id]:
            nodes[node_id] = min(count, sizes[node_id])
            count -= nodes[node_id]
    return Shadow(at, nodes, {node_id: sizes[node_id] - gpus for node_id, gpus in nodes.items()})
