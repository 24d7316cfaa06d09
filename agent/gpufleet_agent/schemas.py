"""The parts of the API's answers that the client reads. A test holds every field against the OpenAPI document."""

from __future__ import annotations

from typing import TypedDict


class Cluster(TypedDict):
    """GPUs that are scheduled together."""

    id: int
    name: str
    region: str
    status: str
    execution_enabled: bool
    node_count: int
    gpu_count: int
    idle_gpus: int
    active_jobs: int
    queued_jobs: int


class Node(TypedDict):
    """A machine with GPUs."""

    id: int
    cluster_id: int
    hostname: str
    ip_address: str | None
    gpu_count: int
    status: str
    reason: str
    last_heartbeat_at: str


class RegisteredGpu(TypedDict):
    """A GPU as its registration answers it."""

    id: int
    gpu_index: int
    uuid: str
    state: str


class Reading(TypedDict):
    """A sample of a GPU; None: not measured."""

    recorded_at: str
    utilization_pct: float | None
    memory_used_mb: int | None
    memory_total_mb: int | None
    temperature_c: float | None
    power_draw_w: float | None
    xid: int | None


class Holder(TypedDict):
    """The job that holds a GPU."""

    id: int
    name: str


class Gpu(TypedDict):
    """A GPU with its latest reading and its holder."""

    id: int
    node_id: int
    gpu_index: int
    model: str
    vram_mb: int | None
    state: str
    latest_metrics: Reading | None
    job: Holder | None


class Job(TypedDict):
    """A job as a list shows it."""

    id: int
    cluster_id: int
    tenant_id: int | None
    name: str
    gpu_count: int
    gpu_type: str
    priority: int
    status: str
    block_reason: str
    gpu_ids: list[int]
    cost: str | None
    currency: str | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None


class Blocker(TypedDict):
    """One thing that keeps a job from its start."""

    code: str
    text: str


class Remedy(TypedDict):
    """A change of one thing with which the job would start now."""

    text: str


class Explanation(TypedDict):
    """Why a job waits, or why it went where it went."""

    job_id: int
    status: str
    summary: str
    blockers: list[Blocker]
    place: int | None
    queued: int
    estimated_start: str | None
    would_start_now_with: list[Remedy]
    placed_on: list[str]


class Run(TypedDict):
    """What one node reported of one run of a job."""

    run_id: int
    node_id: int
    hostname: str
    rank: int
    state: str
    exit_code: int | None
    message: str
    log_tail: str
    started_at: str | None
    ended_at: str | None


class AssignedGpu(TypedDict):
    """A GPU that a job holds on this node."""

    gpu_index: int
    uuid: str


class Assignment(TypedDict):
    """A run of a job that holds GPUs on this node."""

    run_id: int
    job_id: int
    name: str
    command: list[str] | None
    image: str
    env: dict[str, str]
    gpus: list[AssignedGpu]
    rank: int
    world_size: int
    master_addr: str
    stop_by: str | None


class Assignments(TypedDict):
    """What a node is to run. ``poll_after_s``: how long to wait before the next question."""

    version: str
    execution_enabled: bool
    accepts_new: bool
    poll_after_s: float
    runs: list[Assignment]


class Tenant(TypedDict):
    """A customer."""

    id: int
    name: str


class UsedByModel(TypedDict):
    """What a tenant used of one GPU model. Numbers are decimal strings."""

    gpu_model: str
    gpu_seconds: str
    cost: str


class Usage(TypedDict):
    """What a tenant used."""

    tenant_id: int
    window_from: str
    window_to: str
    gpu_seconds: str
    cost: str
    currency: str
    by_gpu_model: list[UsedByModel]


class Invoice(TypedDict):
    """An invoice; its number is given when it is finalised."""

    id: int
    number: int | None
    tenant_id: int
    status: str
    total: str
    currency: str
    period_from: str
    period_to: str
