from datetime import UTC, datetime, timedelta
from typing import Any

from dashboard.demo.catalog import CLUSTERS
from dashboard.demo.demand import JobView
from dashboard.demo.simulation import Simulation

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def make(seed: int = 1) -> Simulation:
    simulation = Simulation(list(CLUSTERS), seed, began=NOON)
    ids = iter(range(1, 257))
    for cluster in CLUSTERS:
        for node in cluster.nodes():
            simulation.add_agent(node, cluster.name, [next(ids) for _ in node.gpus()])
    return simulation


def calm(simulation: Simulation) -> Simulation:
    """Nothing goes wrong by itself."""
    simulation.hot.every = simulation.silent.every = timedelta(days=10_000)
    return simulation


def job(job_id: int, **fields: Any) -> JobView:
    defaults: dict[str, Any] = {
        "name": f"fold-{job_id}",
        "customer": "Helix Biosciences",
        "gpu_count": 8,
        "running": True,
        "submitted_at": NOON,
        "started_at": NOON,
        "estimated_duration_min": 10,
    }
    return JobView(job_id=job_id, **{**defaults, **fields})


def test_every_node_beats_every_10_to_15_seconds() -> None:
    simulation, beats = make(), dict.fromkeys((agent.node.hostname for agent in make().agents), 0)
    for second in range(300):
        for agent in simulation.due_heartbeats(NOON + timedelta(seconds=second)):
            beats[agent.node.hostname] += 1
    assert all(300 / 16 <= count <= 300 / 10 + 1 for count in beats.values())


def test_heartbeats_are_spread_and_not_all_at_once() -> None:
    assert 0 < len(make().due_heartbeats(NOON + timedelta(seconds=3))) < 20


def test_a_silent_node_sends_neither_heartbeats_nor_metrics() -> None:
    simulation = make()
    victim = simulation.agents[0]
    simulation.silent.until[victim.node.hostname] = NOON + timedelta(minutes=5)
    heard = simulation.due_heartbeats(NOON + timedelta(seconds=20))
    assert len(heard) == 31
    assert victim not in heard
    reported = {reading["gpu_id"] for name in ("fra-1", "iad-2") for reading in simulation.readings(name)}
    assert reported == set(range(1, 257)) - set(victim.gpu_ids)


def test_readings_follow_who_works_where() -> None:
    simulation = calm(make())
    for step in range(1, 31):
        simulation.advance(NOON + timedelta(seconds=10 * step), busy={1: 77, 2: 77})
    readings = {reading["gpu_id"]: reading for reading in simulation.readings("fra-1")}
    assert len(readings) == 128
    assert min(readings[1]["utilization_pct"], readings[2]["utilization_pct"]) > 15
    assert max(reading["utilization_pct"] for gpu_id, reading in readings.items() if gpu_id > 2) <= 3
    assert readings[1]["temperature_c"] > readings[3]["temperature_c"] + 15


def test_an_uncooled_gpu_overheats_until_its_trouble_is_over() -> None:
    simulation = calm(make())
    agent = simulation.agents[3]
    simulation.hot.until[agent.uuids()[2]] = NOON + timedelta(minutes=4)
    for step in range(1, 21):
        simulation.advance(NOON + timedelta(seconds=10 * step), busy={})
    assert [body.temperature_c > 90 for body in agent.bodies] == [index == 2 for index in range(8)]
    for step in range(21, 45):
        simulation.advance(NOON + timedelta(seconds=10 * step), busy={})
    assert agent.bodies[2].temperature_c < 60


def test_running_jobs_end_when_their_time_has_come() -> None:
    simulation = make()
    assert simulation.moves([job(1)], NOON).end == {}
    ended = simulation.moves([job(1)], NOON + timedelta(minutes=12)).end
    assert ended.keys() == {1}
    assert ended[1].status in ("completed", "failed")


def test_jobs_that_ran_before_us_end_within_twenty_minutes_at_times_of_their_own() -> None:
    """Those of the history: some should have ended hours ago, some would run for days."""
    simulation = make()
    old = [
        job(number, started_at=NOON - timedelta(hours=9), estimated_duration_min=minutes)
        for number, minutes in enumerate([30] * 20 + [6000] * 20)
    ]
    assert simulation.moves(old, NOON).end == {}
    ends = [ending.at for ending in simulation.endings.values()]
    assert len(set(ends)) == 40
    assert min(ends) > NOON
    assert max(ends) <= NOON + timedelta(minutes=20)


def test_a_restart_forgets_nothing_about_jobs_of_its_own() -> None:
    first, second = make(), make()
    first.moves([job(1)], NOON)
    second.moves([job(1)], NOON + timedelta(minutes=2))
    assert first.endings == second.endings


def test_jobs_of_other_people_are_never_ended_or_cancelled() -> None:
    simulation = make()
    others = [job(1, ours=False), job(2, ours=False, running=False, started_at=None)]
    simulation.moves(others, NOON)
    assert simulation.moves(others, NOON + timedelta(hours=5)).end == {}


def test_who_has_waited_too_long_cancels() -> None:
    waiting = job(5, running=False, started_at=None)
    assert make().moves([waiting], NOON + timedelta(minutes=5)).end == {}
    assert make().moves([waiting], NOON + timedelta(minutes=7)).end[5].status == "cancelled"


def test_who_waited_before_us_gets_his_patience_again() -> None:
    waiting = job(5, running=False, started_at=None, submitted_at=NOON - timedelta(hours=3))
    assert make().moves([waiting], NOON + timedelta(minutes=5)).end == {}
    assert make().moves([waiting], NOON + timedelta(minutes=7)).end.keys() == {5}


def test_the_fleet_is_kept_sold_and_the_queue_small() -> None:
    """A scheduler that places everything at once, a day long, in steps of ten seconds."""
    simulation, next_id = make(), 0
    running: dict[int, JobView] = {}
    shares: list[float] = []
    for step in range(6 * 60 * 4):
        now = NOON + timedelta(seconds=10 * step)
        moves = simulation.moves(list(running.values()), now)
        for job_id in moves.end:
            del running[job_id]
        for request in moves.submit:
            next_id += 1
            running[next_id] = job(
                next_id,
                name=request.name,
                gpu_count=request.gpu_count,
                started_at=now,
                submitted_at=now,
                estimated_duration_min=request.estimated_duration_min,
            )
        shares.append(sum(one.gpu_count for one in running.values()) / 256)
    settled = shares[60:]
    assert 0.78 < sum(settled) / len(settled) < 0.92
