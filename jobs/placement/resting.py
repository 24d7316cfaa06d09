"""Nodes on which everything fails at once, and which therefore take nothing for a while. Pure.

Such a node is always free, and so draws the whole queue into its grave (pytorch/ci-infra#1058). A node rests when its
last three jobs or more all failed within two minutes of their start, and not all of them were one tenant's, whose jobs
may fail anywhere: for five minutes, and twice as long with each further failure, up to an hour. A job that ends
otherwise clears it. Of one cluster no more than a tenth of the nodes rest at once, and at least one may: where more
would, the fault is not the nodes'.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

FAILS_WITHIN: Final = timedelta(minutes=2)
FAILURES: Final = 3
FIRST_REST: Final = timedelta(minutes=5)
LONGEST_REST: Final = timedelta(hours=1)
SHARE: Final = 10


class Failure(NamedTuple):
    """A job that failed as soon as it had started."""

    at: datetime
    tenant_id: int | None


def rests_until(failures: Sequence[Failure]) -> datetime | None:
    """When a node may take jobs again whose last jobs ended like this, the oldest first; None: it takes them."""
    if len(failures) < FAILURES or len({one.tenant_id for one in failures}) < 2:
        return None
    doublings = min(len(failures), 9) - FAILURES
    return failures[-1].at + min(FIRST_REST * (1 << doublings), LONGEST_REST)


def resting(
    failures: Mapping[int, Sequence[Failure]], clusters: Mapping[int, Collection[int]], now: datetime
) -> dict[int, datetime]:
    """The nodes that rest at ``now``, and until when. ``clusters``: the nodes of each cluster."""
    found = {}
    for nodes in clusters.values():
        rests = {node_id: rests_until(failures.get(node_id, ())) for node_id in nodes}
        due = {node_id: until for node_id, until in rests.items() if until is not None and until > now}
        worst = sorted(due, key=lambda node_id: (-len(failures[node_id]), node_id))
        found.update({node_id: due[node_id] for node_id in worst[: max(1, len(nodes) // SHARE)]})
    return found
