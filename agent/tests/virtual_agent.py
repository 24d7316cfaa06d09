"""An agent in virtual time, as a process of its own that a test can kill: says each instant whose samples it keeps."""

import random
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from gpufleet_agent.client import Client
from gpufleet_agent.simulated import SimulatedSource
from gpufleet_agent.spool import Sample, Spool
from gpufleet_agent.telemetry import NodeFacts, Telemetry
from gpufleet_agent.transport import Transport


class Aloud(Spool):
    """Says when samples are kept."""

    def append(self, samples: Sequence[Sample]) -> None:
        super().append(samples)
        print("kept", samples[0]["recorded_at"], len(samples), flush=True)


def main() -> None:
    server, key, cluster, folder, start, end = sys.argv[1:]
    telemetry = Telemetry(
        Client(Transport(server, key)),
        SimulatedSource(4, "node-1"),
        NodeFacts(int(cluster), "node-1", None, None, None),
        Path(folder),
        spool=Aloud(Path(folder) / "spool", most_bytes=2**24),
        interval_s=10,
        heartbeat_s=15,
        rng=random.Random(start),
    )
    now, last, tick = datetime.fromisoformat(start), datetime.fromisoformat(end), 0.0
    while now < last:
        wait = max(telemetry.step(now, tick), 0.1)
        print("now", (now + timedelta(seconds=wait)).isoformat(), flush=True)
        now, tick = now + timedelta(seconds=wait), tick + wait


main()
