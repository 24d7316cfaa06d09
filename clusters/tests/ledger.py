"""What must be true of the ledger of states, whatever happened before."""

from datetime import datetime
from itertools import pairwise

from clusters.models import GPU, GPUStatePeriod
from clusters.services.ledger import circumstances_of
from clusters.states import gpu_state


def periods_of(gpu: GPU) -> list[tuple[str, datetime, datetime | None]]:
    """The GPU's chain, oldest first: state, from, to."""
    rows = GPUStatePeriod.objects.filter(gpu=gpu).order_by("during")
    return [(row.state, row.during.lower, row.during.upper) for row in rows]


def check_cards() -> None:
    """No second of a card is counted twice, in whichever slots and nodes of its cluster it was."""
    rows = GPUStatePeriod.objects.exclude(gpu__uuid="").order_by("gpu__node__cluster", "gpu__uuid", "during")
    periods = rows.values_list("gpu__node__cluster", "gpu__uuid", "during")
    for (cluster, uuid, before), (next_cluster, next_uuid, then) in pairwise(periods):
        if (cluster, uuid) == (next_cluster, next_uuid):
            assert before.upper is not None
            assert before.upper <= then.lower


def check_chain(gpu_id: int) -> None:
    """One chain without a gap from registration to retirement, or still open, that agrees with the GPU's row."""
    gpu = GPU.objects.select_related("node__cluster").get(pk=gpu_id)
    chain = periods_of(gpu)
    if not chain:
        assert gpu.retired_at == gpu.registered_at
        return
    assert chain[0][1] == gpu.registered_at
    for (_, _, until), (_, since, _) in pairwise(chain):
        assert until == since
    assert chain[-1][2] == gpu.retired_at
    if gpu.retired_at is None:
        assert chain[-1][0] == gpu.state == gpu_state(circumstances_of(gpu)).state
