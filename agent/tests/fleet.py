"""A cluster on a live server, and agents of it."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.models import Cluster
from clusters.services import create_cluster
from django.utils import timezone

from gpufleet_agent.client import Client
from gpufleet_agent.devices import Source
from gpufleet_agent.simulated import SimulatedSource
from gpufleet_agent.spool import Spool
from gpufleet_agent.telemetry import NodeFacts, Telemetry
from gpufleet_agent.transport import Transport


@dataclass
class Fleet:
    """A cluster, its agents' key, and the server."""

    server: str
    cluster: Cluster
    key: str

    def client(self, *, server: str = "") -> Client:
        return Client(Transport(server or self.server, self.key))

    def facts(self, hostname: str = "node-1") -> NodeFacts:
        return NodeFacts(self.cluster.pk, hostname, "10.0.0.1", 64, 512)

    def telemetry(
        self,
        folder: Path,
        *,
        source: Source | None = None,
        gpus: int = 2,
        client: Client | None = None,
        **bounds: Any,
    ) -> Telemetry:
        return Telemetry(
            client or self.client(),
            source or SimulatedSource(gpus, "node-1"),
            self.facts(),
            folder,
            spool=Spool(folder / "spool", most_bytes=bounds.get("most_bytes", 2**24)),
            interval_s=10,
            heartbeat_s=15,
            rng=random.Random(3),
        )


def make_fleet(server: str, name: str = "fra", **fields: Any) -> Fleet:
    created = create_cluster(name=name, actor="test", now=timezone.now())
    Cluster.objects.filter(pk=created.cluster.pk).update(**fields)
    return Fleet(server, created.cluster, created.api_key)
