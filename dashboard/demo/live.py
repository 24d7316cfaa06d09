"""The simulated fleet at work: agents and customers that speak to the server as anyone's would."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from dashboard.demo.catalog import CUSTOMERS, DemoCluster, DemoNode
from dashboard.demo.client import Api, Refused
from dashboard.demo.demand import JobView, Request
from dashboard.demo.keys import ClusterAccess, DemoKeys
from dashboard.demo.simulation import METRICS_EVERY, Agent, Simulation

logger = structlog.stdlib.get_logger(__name__)

LOOK_EVERY = timedelta(seconds=5)
# Whoever was refused waits before he asks again: a key may have been revoked, a cluster decommissioned.
REFUSED_FOR = timedelta(seconds=60)
PAGE = 500
UNAUTHORIZED = 401
OF_A_GPU = re.compile(r"#/metrics/(\d+)/gpu_id")


class LiveFleet:
    """The simulation, tied to a server. ``step`` does what is due; between two steps the caller sleeps."""

    def __init__(self, api: Api, keys: DemoKeys, clusters: Sequence[DemoCluster], *, seed: int, now: datetime) -> None:
        """Tell the server of every node and GPU, and learn their ids. Doing it again changes nothing there.

        A cluster whose key is refused stays out. Raises ``Refused`` where none is left, or the jobs' key is refused.
        """
        self.api, self.keys = api, keys
        self.tenants = self._known_tenants()
        access = {one.name: one for one in keys.clusters}
        self.simulation = Simulation([], seed, began=now)
        for cluster in clusters:
            if cluster.name in access:
                self._enlist(cluster, access[cluster.name])
        self.access = {cluster.name: access[cluster.name] for cluster in self.simulation.clusters}
        if not self.access:
            raise Refused(UNAUTHORIZED, "no cluster of the demo lets its agents in")
        self.busy: dict[int, int] = {}
        self.pulled: set[int] = set()
        self.due: dict[str, datetime] = {"jobs": now, "metrics": now}
        self.refused_until: dict[str, datetime] = {}
        logger.info("the simulated fleet is registered", nodes=len(self.simulation.agents))

    def step(self, now: datetime) -> float:
        """Do what is due. Returns the seconds until something is due again."""
        self._when_due("jobs", LOOK_EVERY, now, self._look_at_jobs)
        for agent in self.simulation.due_heartbeats(now):
            self._unless_refused(agent.cluster, now, partial(self._beat, agent))
        self._when_due("metrics", METRICS_EVERY, now, self._report)
        beats = [agent.next_beat for agent in self.simulation.agents]
        return max((min([*beats, *self.due.values()]) - now).total_seconds(), 0.0)

    def _when_due(self, what: str, every: timedelta, now: datetime, task: Callable[[datetime], None]) -> None:
        if self.due[what] <= now:
            self.due[what] = now + every
            task(now)

    def _unless_refused(self, whom: str, now: datetime, call: Callable[[], None]) -> None:
        """Make a call in somebody's name, unless he was refused a short while ago."""
        if self.refused_until.get(whom, now) > now:
            return
        try:
            call()
        except Refused as refusal:
            logger.warning("refused", whom=whom, refusal=str(refusal))
            self.refused_until[whom] = now + REFUSED_FOR

    def _known_tenants(self) -> dict[str, int]:
        rows = self.api.get_all("/api/tenants", key=self.keys.jobs_key, params={"limit": PAGE})
        ids = {tenant["name"]: tenant["id"] for tenant in rows}
        return {customer.name: ids[customer.name] for customer in CUSTOMERS if customer.name in ids}

    def _enlist(self, cluster: DemoCluster, access: ClusterAccess) -> None:
        try:
            ids = {node: self._register_node(access, node) for node in cluster.nodes()}
        except Refused as refusal:
            logger.warning("a cluster stays out", cluster=cluster.name, refusal=str(refusal))
            return
        self.simulation.clusters.append(cluster)
        for node, gpu_ids in ids.items():
            self.simulation.add_agent(node, cluster.name, gpu_ids)

    def _register_node(self, access: ClusterAccess, node: DemoNode) -> list[int]:
        gpus = node.gpus()
        body = {
            "cluster_id": access.cluster_id,
            "hostname": node.hostname,
            "ip_address": node.ip_address,
            "total_gpus": len(gpus),
            "cpu_cores": node.cpu_cores,
            "ram_gb": node.ram_gb,
        }
        known = self.api.send("POST", "/api/clusters/nodes", body, key=access.api_key)
        rows = self.api.send("POST", "/api/clusters/gpus", {"node_id": known["id"], "gpus": gpus}, key=access.api_key)
        return [row["id"] for row in rows]

    def _beat(self, agent: Agent) -> None:
        access = self.access[agent.cluster]
        body = {"cluster_id": access.cluster_id, "hostname": agent.node.hostname}
        self.api.send("POST", "/api/clusters/nodes", body, key=access.api_key)

    def _report(self, now: datetime) -> None:
        self.simulation.advance(now, busy=self.busy)
        for name, access in self.access.items():
            readings = self.simulation.readings(name)
            if readings:
                self._unless_refused(name, now, partial(self._post_metrics, access, readings))

    def _post_metrics(self, access: ClusterAccess, readings: Sequence[Mapping[str, float | int]]) -> None:
        """Of the GPUs that are still there: somebody who retires one has pulled it out."""
        there = [one for one in readings if one["gpu_id"] not in self.pulled]
        try:
            self.api.send("POST", "/api/clusters/metrics", {"metrics": there}, key=access.api_key)
        except Refused as refusal:
            places = [int(found[1]) for found in map(OF_A_GPU.fullmatch, refusal.pointers) if found]
            if not places:
                raise
            self.pulled |= {int(there[place]["gpu_id"]) for place in places}
            logger.info("GPUs were pulled out", cluster=access.name, refusal=str(refusal))
            self._post_metrics(access, readings)

    def _look_at_jobs(self, now: datetime) -> None:
        self._unless_refused("jobs", now, partial(self._act, now))

    def _act(self, now: datetime) -> None:
        """See what runs and waits, then end and submit."""
        rows = self._jobs("running") + self._jobs("queued")
        self.busy = {gpu_id: row["id"] for row in rows for gpu_id in row["gpu_ids"]}
        moves = self.simulation.moves([self._view(row) for row in rows], now)
        for job_id, ending in moves.end.items():
            body = {"status": ending.status, **({"block_reason": ending.reason} if ending.reason else {})}
            self._try(partial(self._patch_job, job_id, body))
        for request in moves.submit:
            if request.customer in self.tenants:
                self._try(partial(self._submit, request))

    def _try(self, call: Callable[[], None]) -> None:
        """One job's call: what is refused (ended by somebody else, a quota that was lowered) concerns that job only."""
        try:
            call()
        except Refused as refusal:
            logger.info("a customer was refused", refusal=str(refusal))

    def _jobs(self, status: str) -> list[dict[str, Any]]:
        return self.api.get_all("/api/jobs", key=self.keys.jobs_key, params={"status": status, "limit": PAGE})

    def _view(self, row: Mapping[str, Any]) -> JobView:
        names = {tenant_id: name for name, tenant_id in self.tenants.items()}
        domains = {customer.domain for customer in CUSTOMERS}
        return JobView(
            job_id=row["id"],
            name=row["name"],
            customer=names.get(row["tenant_id"], ""),
            gpu_count=row["gpu_count"],
            running=row["status"] == "running",
            submitted_at=datetime.fromisoformat(row["submitted_at"]),
            started_at=datetime.fromisoformat(row["started_at"]) if row["started_at"] else None,
            estimated_duration_min=row["estimated_duration_min"],
            ours=row["submitted_by"].rpartition("@")[2] in domains,
        )

    def _patch_job(self, job_id: int, body: Mapping[str, str]) -> None:
        self.api.send("PATCH", f"/api/jobs/{job_id}/status", body, key=self.keys.jobs_key)

    def _submit(self, request: Request) -> None:
        body = {
            "cluster_id": self.access[request.cluster].cluster_id,
            "tenant_id": self.tenants[request.customer],
            "name": request.name,
            "gpu_count": request.gpu_count,
            "gpu_type": request.gpu_type,
            "priority": request.priority,
            "submitted_by": request.submitted_by,
            "estimated_duration_min": request.estimated_duration_min,
        }
        self.api.send("POST", "/api/jobs", body, key=self.keys.jobs_key)
