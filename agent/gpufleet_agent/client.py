"""The API as Python functions. Every path, parameter and field here is held against the OpenAPI document by a test.

client = Client("https://gpufleet.example", "gfk_…")
job = client.submit_job({"cluster_id": 1, "name": "train", "gpu_count": 8, "command": ["python", "train.py"]})
"""

from __future__ import annotations

import uuid
from typing import Any, cast
from urllib.parse import urlsplit

from gpufleet_agent.schemas import (
    Assignments,
    Cluster,
    Explanation,
    Gpu,
    Invoice,
    Job,
    Node,
    RegisteredGpu,
    Run,
    Tenant,
    Usage,
)
from gpufleet_agent.transport import TIMEOUT_S, Transport

MOST_PAGES = 1_000


class Client:
    """Calls of one server under one key. All raise ``Unreachable``, ``Busy`` and ``Refused``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def clusters(self) -> list[Cluster]:
        """All clusters in service."""
        return cast("list[Cluster]", self._rows("/api/clusters", {}))

    def nodes(self, *, cluster_id: int | None = None) -> list[Node]:
        """The nodes that the key may see."""
        return cast("list[Node]", self._rows("/api/clusters/nodes", {"cluster_id": cluster_id}))

    def gpus(self, *, cluster_id: int | None = None) -> list[Gpu]:
        """The GPUs that the key may see, with their latest readings."""
        return cast("list[Gpu]", self._rows("/api/clusters/gpus", {"cluster_id": cluster_id}))

    def register_node(self, fields: dict[str, Any]) -> Node:
        """Register a node, or send its heartbeat."""
        return cast("Node", self._transport.call("POST", "/api/clusters/nodes", body=fields).body)

    def register_gpus(self, node_id: int, gpus: list[dict[str, Any]]) -> list[RegisteredGpu]:
        """Say which GPUs sit in the node."""
        body = {"node_id": node_id, "gpus": gpus}
        return cast("list[RegisteredGpu]", self._transport.call("POST", "/api/clusters/gpus", body=body).body)

    def post_metrics(self, body: bytes, *, idempotency_key: str) -> int:
        """Send a batch, already encoded. Returns how many samples are durable now."""
        answer = self._transport.call("POST", "/api/clusters/metrics", body=body, idempotency_key=idempotency_key)
        return int(answer.body["accepted"])

    def assignments(self, node_id: int, *, version: str | None, wait: int) -> Assignments:
        """What the node is to run; the server answers when that is no longer ``version``, or after ``wait`` seconds."""
        path, params = f"/api/clusters/nodes/{node_id}/assignments", {"version": version, "wait": wait}
        return cast("Assignments", self._transport.call("GET", path, params=params, timeout=TIMEOUT_S + wait).body)

    def report_run(self, node_id: int, report: dict[str, Any]) -> Run:
        """Say what became of a run."""
        path = f"/api/clusters/nodes/{node_id}/reports"
        return cast("Run", self._transport.call("POST", path, body=report).body)

    def submit_job(self, fields: dict[str, Any]) -> Job:
        """Submit a job. The idempotency key is of this call: who repeats the call submits another job."""
        answer = self._transport.call("POST", "/api/jobs", body=fields, idempotency_key=uuid.uuid4().hex)
        return cast("Job", answer.body)

    def jobs(self, *, status: str | None = None, limit: int | None = None) -> list[Job]:
        """Jobs, newest first; all of them, or the newest ``limit``."""
        return cast("list[Job]", self._rows("/api/jobs", {"status": status}, limit))

    def job(self, job_id: int) -> Job:
        """One job."""
        return cast("Job", self._transport.call("GET", f"/api/jobs/{job_id}").body)

    def move_job(self, job_id: int, status: str) -> Job:
        """Cancel a job, or move it otherwise."""
        body = {"status": status}
        return cast("Job", self._transport.call("PATCH", f"/api/jobs/{job_id}/status", body=body).body)

    def explain_job(self, job_id: int) -> Explanation:
        """Why it waits, or why it went where it went."""
        return cast("Explanation", self._transport.call("GET", f"/api/jobs/{job_id}/explain").body)

    def job_runs(self, job_id: int) -> list[Run]:
        """What the nodes reported of the job's runs, newest first, with the last lines of their logs."""
        return cast("list[Run]", self._rows(f"/api/jobs/{job_id}/runs", {}))

    def tenants(self) -> list[Tenant]:
        """The tenants that the key may see."""
        return cast("list[Tenant]", self._rows("/api/tenants", {}))

    def usage(self, tenant_id: int, *, days: int) -> Usage:
        """A tenant's GPU-time and cost."""
        return cast("Usage", self._transport.call("GET", f"/api/tenants/{tenant_id}/usage", params={"days": days}).body)

    def invoices(self) -> list[Invoice]:
        """The invoices that the key may see."""
        return cast("list[Invoice]", self._rows("/api/billing/invoices", {}))

    def _rows(self, path: str, params: dict[str, Any], limit: int | None = None) -> list[Any]:
        """The rows of a list, page by page."""
        answer = self._transport.call("GET", path, params={**params, "limit": min(limit or 500, 500)})
        rows: list[Any] = answer.body
        for _ in range(MOST_PAGES):
            if not answer.next or (limit is not None and len(rows) >= limit):
                break
            there = urlsplit(answer.next)
            answer = self._transport.call("GET", f"{there.path}?{there.query}")
            rows += answer.body
        return rows if limit is None else rows[:limit]
