"""The simulated fleet: what its agents say and what its customers do next, given what the API shows. Pure."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dashboard.demo import demand
from dashboard.demo.catalog import DemoCluster, DemoNode
from dashboard.demo.demand import Board, Ending, JobView, Request
from dashboard.demo.incidents import Trouble, overheating, silence
from dashboard.demo.physics import GpuBody

BEAT_EVERY_S = (10.0, 15.0)
METRICS_EVERY = timedelta(seconds=10)
PATIENCE = timedelta(minutes=6)
# What a job that was running before us may still last: its true end is long gone, or hours away.
ADOPTED_FOR_MIN = (0.5, 20.0)
SOLD_SHARE = (0.80, 0.87)


@dataclass(slots=True)
class Agent:
    """A node's agent, once the API has told it the ids of its node's GPUs."""

    node: DemoNode
    cluster: str
    gpu_ids: Sequence[int]
    bodies: Sequence[GpuBody]
    next_beat: datetime

    def uuids(self) -> list[str]:
        """The UUIDs of its GPUs, in the order of ``gpu_ids``."""
        return [self.node.gpu_uuid(index) for index in range(len(self.bodies))]


@dataclass(frozen=True, slots=True)
class Moves:
    """What the customers do: submit jobs, and end or cancel others."""

    submit: Sequence[Request]
    end: Mapping[int, Ending]


@dataclass(slots=True)
class Simulation:
    """The hardware's inner life and the customers' plans. Time is passed in; nothing else is asked of the outside."""

    clusters: list[DemoCluster]
    seed: int
    began: datetime
    agents: list[Agent] = field(default_factory=list)
    hot: Trouble = field(default_factory=overheating)
    silent: Trouble = field(default_factory=silence)
    endings: dict[int, Ending] = field(default_factory=dict)
    rng: random.Random = field(init=False)
    last: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Two simulations with the same seed and the same questions give the same answers."""
        self.rng = random.Random(self.seed)  # noqa: S311  (a simulation, not a secret)
        self.last = self.began

    def add_agent(self, node: DemoNode, cluster: str, gpu_ids: Sequence[int]) -> None:
        """Put a node's agent to work, its first heartbeat at a moment of its own."""
        bodies = [GpuBody(node.model, power_w=node.model.idle_w) for _ in gpu_ids]
        first = self.began + timedelta(seconds=self.rng.uniform(0, BEAT_EVERY_S[0]))
        self.agents.append(Agent(node, cluster, gpu_ids, bodies, first))

    def due_heartbeats(self, now: datetime) -> list[Agent]:
        """The agents that speak now. Silent ones don't; each of the others speaks again in 10 to 15 s."""
        due = [agent for agent in self.agents if agent.next_beat <= now]
        for agent in due:
            agent.next_beat = now + timedelta(seconds=self.rng.uniform(*BEAT_EVERY_S))
        return [agent for agent in due if agent.node.hostname not in self.silent.struck]

    def advance(self, now: datetime, *, busy: Mapping[int, int]) -> None:
        """Live up to ``now``. ``busy``: the job that each GPU works for, by the GPU's id."""
        elapsed = now - self.last
        self.last = now
        every_gpu = [uuid for agent in self.agents for uuid in agent.uuids()]
        self.hot.advance(now, elapsed, every_gpu, self.rng)
        self.silent.advance(now, elapsed, [agent.node.hostname for agent in self.agents], self.rng)
        for agent in self.agents:
            for gpu_id, uuid, body in zip(agent.gpu_ids, agent.uuids(), agent.bodies, strict=True):
                body.advance(
                    elapsed.total_seconds(), job_id=busy.get(gpu_id), cooling=uuid not in self.hot.struck, rng=self.rng
                )

    def readings(self, cluster: str) -> list[dict[str, float | int]]:
        """What the agents of a cluster report; those that are silent report nothing."""
        speaking = [
            agent for agent in self.agents if agent.cluster == cluster and agent.node.hostname not in self.silent.struck
        ]
        return [
            body.reading(gpu_id) for agent in speaking for gpu_id, body in zip(agent.gpu_ids, agent.bodies, strict=True)
        ]

    def moves(self, jobs: Iterable[JobView], now: datetime) -> Moves:
        """What the customers do, seeing these jobs."""
        board = Board(list(jobs), self._capacity())
        self._settle_endings(board, now)
        over = {job_id: ending for job_id, ending in self.endings.items() if ending.at <= now}
        for job_id in demand.given_up(board, now=now, patience=PATIENCE, since=self.began):
            over[job_id] = Ending(now, "cancelled", "no longer needed")
        left = Board([job for job in board.jobs if job.job_id not in over], board.capacity)
        share = min(max(demand.busy_share(now), SOLD_SHARE[0]), SOLD_SHARE[1])
        requests = demand.next_requests(left, share=share, pace=demand.LIVE, clusters=self.clusters, rng=self.rng)
        return Moves(requests, over)

    def _capacity(self) -> int:
        return sum(len(agent.gpu_ids) for agent in self.agents if agent.node.hostname not in self.silent.struck)

    def _settle_endings(self, board: Board, now: datetime) -> None:
        """Decide about jobs that are seen for the first time, and forget those that no longer run."""
        running = {job.job_id: job for job in board.jobs if job.running and job.ours}
        self.endings = {job_id: ending for job_id, ending in self.endings.items() if job_id in running}
        for job_id in running.keys() - self.endings.keys():
            self.endings[job_id] = self._ending_of(running[job_id], now)

    def _ending_of(self, job: JobView, now: datetime) -> Ending:
        ending = demand.ending_of(job, seed=self.seed)
        if now <= ending.at <= now + timedelta(minutes=ADOPTED_FOR_MIN[1]):
            return ending
        fate = random.Random(f"adopted:{self.seed}:{job.name}")  # noqa: S311  (a fate, not a secret)
        return Ending(now + timedelta(minutes=fate.uniform(*ADOPTED_FOR_MIN)), ending.status, ending.reason)
