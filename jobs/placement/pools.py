"""The free GPUs of one model in one cluster, and where a job goes among them."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Taken(NamedTuple):
    """GPUs that were taken, and how many of which node."""

    gpu_ids: tuple[int, ...]
    nodes: Mapping[int, int]


@dataclass(slots=True)
class Pool:
    """Free GPUs by node, with the nodes in buckets by how many they have free. ``kept`` are free as well, and are kept
    for the job that holds the cluster's reservation; those set ``aside`` are for jobs that others are preempted for."""

    largest_node: int = 0
    total: int = 0
    free: dict[int, list[int]] = field(default_factory=dict)
    kept: dict[int, list[int]] = field(default_factory=dict)
    aside: int = 0
    buckets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, node_id: int, gpu_ids: Iterable[int]) -> None:
        """Count a node's free GPUs in."""
        self.free[node_id] = sorted(gpu_ids, reverse=True)
        self.total += len(self.free[node_id])
        self._file(node_id)

    def keep(self, node_id: int, count: int) -> None:
        """Set so many free GPUs of a node aside."""
        self.kept[node_id] = list(reversed(self._take_from(node_id, count)))

    def set_aside(self, count: int, node_id: int | None = None) -> None:
        """Let nobody have so many free GPUs, or all where there are fewer: of this node, or of the fullest ones."""
        if node_id is None:
            self.aside += len(self._take_spread(max(0, min(count, self.total))).gpu_ids)
        else:
            self.aside += len(self._take_from(node_id, max(0, min(count, len(self.free.get(node_id, ()))))))

    def take(self, count: int) -> Taken | None:
        """Take GPUs on one node where one node could hold them all, else on the fewest; None when it can't be now."""
        if count > self.total:
            return None
        if count > self.largest_node:
            return self._take_spread(count)
        node_id = self._tightest(count)
        return None if node_id is None else Taken(self._take_from(node_id, count), {node_id: count})

    def take_kept(self, count: int) -> Taken | None:
        """Take GPUs on one node of the reservation, those that are kept first; None when no such node has enough."""
        sizes = {node_id: self._free_and_kept(node_id) for node_id in self.kept}
        large_enough = [node_id for node_id, size in sizes.items() if size >= count]
        if not large_enough:
            return None
        node_id = min(large_enough, key=lambda node_id: (sizes[node_id], node_id))
        kept = self.kept[node_id]
        taken = tuple(kept.pop() for _ in range(min(count, len(kept))))
        return Taken(taken + self._take_from(node_id, count - len(taken)), {node_id: count})

    def most_kept(self) -> int:
        """The most GPUs that one node of the reservation has free."""
        return max(map(self._free_and_kept, self.kept), default=0)

    def most_on_one_node(self) -> int:
        """The most free GPUs that one node has, without those that are kept."""
        return max((count for count in self.buckets if count and self._head(count) is not None), default=0)

    def most_with_kept(self) -> int:
        """The most free GPUs that one node has."""
        return max([self.most_on_one_node(), *(self._free_and_kept(node_id) for node_id in self.kept)])

    @property
    def total_with_kept(self) -> int:
        """All free GPUs."""
        return self.total + self.aside + sum(map(len, self.kept.values()))

    def _free_and_kept(self, node_id: int) -> int:
        return len(self.free[node_id]) + len(self.kept[node_id])

    def _file(self, node_id: int) -> None:
        heapq.heappush(self.buckets[len(self.free[node_id])], node_id)

    def _head(self, count: int) -> int | None:
        """The node with exactly this many free that has the smallest id. Stale entries are dropped on the way."""
        bucket = self.buckets.get(count)
        while bucket:
            if len(self.free[bucket[0]]) == count:
                return bucket[0]
            heapq.heappop(bucket)
        return None

    def _tightest(self, count: int) -> int | None:
        for size in sorted(size for size in self.buckets if size >= count):
            node_id = self._head(size)
            if node_id is not None:
                return node_id
        return None

    def _take_from(self, node_id: int, count: int) -> tuple[int, ...]:
        if not count:
            return ()
        gpus = self.free[node_id]
        taken = tuple(gpus.pop() for _ in range(count))
        self.total -= count
        self._file(node_id)
        return taken

    def _take_spread(self, count: int) -> Taken:
        """The fullest nodes first, which makes them the fewest; the rest goes where it fits tightest."""
        taken: tuple[int, ...] = ()
        nodes: dict[int, int] = {}
        while len(taken) < count:
            rest = count - len(taken)
            node_id = self._tightest(min(rest, self.most_on_one_node()))
            assert node_id is not None  # noqa: S101  (there are enough free GPUs in all)
            nodes[node_id] = min(rest, len(self.free[node_id]))
            taken += self._take_from(node_id, nodes[node_id])
        return Taken(taken, nodes)
