from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product

import pytest

from clusters.models import GPUHealth, GPUState, HealthCause, NodeIntent
from clusters.states import (
    Cause,
    Circumstances,
    Health,
    HeatRule,
    Reading,
    State,
    Streak,
    decide_health,
    gpu_state,
    may_quarantine,
)
from clusters.tests.factories import NOW
from clusters.xids import FATAL_XIDS, XIDS

RULE = HeatRule(lasts=timedelta(seconds=120), gap=timedelta(seconds=90))
COOL = Reading(NOW, temperature_c=84.9)


def test_the_words_are_those_of_the_models() -> None:
    assert set(GPUState.values) == set(State.__args__)  # type: ignore[attr-defined]  # a Literal
    assert set(HealthCause.values) == set(Cause.__args__)  # type: ignore[attr-defined]  # a Literal
    assert set(GPUHealth.values) == {"healthy", "unhealthy"}


@pytest.mark.parametrize(
    ("maintenance", "intent", "silent", "healthy"),
    list(product([True, False], NodeIntent.values, [True, False], [True, False])),
)
def test_precedence(maintenance: bool, intent: str, silent: bool, healthy: bool) -> None:
    verdict = gpu_state(
        Circumstances(
            cluster_in_maintenance=maintenance,
            node_intent=intent,  # type: ignore[arg-type]  # one of the values
            node_silent=silent,
            healthy=healthy,
        )
    )
    claims = {
        "maintenance": maintenance or intent == "maintenance",
        "offline": silent,
        "unhealthy": not healthy,
        "draining": intent == "draining",
        "available": True,
    }
    assert verdict.state == next(state for state, claimed in claims.items() if claimed)


def test_the_reason_belongs_to_the_state() -> None:
    now_is = Circumstances(
        node_intent="draining",
        node_reason="new firmware",
        node_silent=True,
        last_heartbeat_at=NOW,
        healthy=False,
        health_reason="XID 79",
    )
    assert gpu_state(now_is).reason == "No heartbeat since 2026-11-23T12:00:00Z."


def heat(*temperatures: float | None, every: int = 10, start: int = 0) -> list[Reading]:
    """Samples so many seconds apart."""
    seconds = (start + every * place for place in range(len(temperatures)))
    return [Reading(at(second), one) for second, one in zip(seconds, temperatures, strict=True)]


def at(second: float) -> datetime:
    return NOW + timedelta(seconds=second)


def decided(health: Health, readings: list[Reading], *, now: datetime | None = None) -> Health:
    """Each sample as it comes, or all of them at ``now``."""
    for reading in readings:
        health = decide_health(health, [reading], rule=RULE, now=now or reading.at)
    return health


def test_heat_must_last_for_its_time() -> None:
    assert decided(Health(), heat(*[90.0] * 12)).healthy  # 110 s.
    hot = decided(Health(), heat(*[90.0] * 12, 94.5))
    assert (hot.healthy, hot.cause, hot.reason) == (False, "temperature", "94.5 °C: 90 °C or more for 120 s.")


@pytest.mark.parametrize("every", [1, 7, 10, 30, 60, 90])
def test_heat_is_time_and_not_a_number_of_samples(every: int) -> None:
    needed = -(-120 // every)
    hot = decided(Health(), heat(*[95.0] * (needed + 1), every=every))
    assert not hot.healthy
    assert decided(Health(), heat(*[95.0] * needed, every=every)).healthy


def test_a_thousand_samples_in_a_moment_are_no_time() -> None:
    assert decided(Health(), [Reading(at(place / 1000), 95) for place in range(1000)]).healthy


def test_one_wrong_sample_takes_no_gpu_away() -> None:
    assert decided(Health(), heat(40, 255, 40, 40, every=60)).healthy
    assert decided(Health(), heat(*[95.0] * 11, 60, 95, 95, 95)).healthy
    assert decided(Health(), heat(*[95.0] * 11, 89.9, 95, 95, 95)).healthy


@pytest.mark.parametrize(("gap", "healthy"), [(90, False), (90.001, True), (3600, True)])
def test_a_card_that_was_not_seen_was_not_seen_hot(gap: float, healthy: bool) -> None:
    readings = [*heat(95, 95, every=60), Reading(at(60 + gap), 95)]
    assert decided(Health(), readings).healthy is healthy


def test_after_a_gap_the_time_starts_again() -> None:
    health = decided(Health(), [*heat(95, 95, every=60), *heat(95, 95, every=60, start=1000)])
    assert (health.healthy, health.streak) == (True, Streak(True, at(1000), at(1060)))
    assert not decided(health, heat(95, start=1120)).healthy


def test_a_sample_without_a_temperature_neither_heats_nor_cools_nor_fills_a_gap() -> None:
    assert not decided(Health(), heat(95, None, 95, None, 95, every=30)).healthy
    assert decided(Health(), heat(95, None, None, None, 95, every=30)).healthy
    assert decided(Health(), heat(95, 95, None, None, None, every=50)).healthy


def test_it_is_the_same_in_one_batch_or_many() -> None:
    readings = heat(*[95.0] * 13)
    assert decide_health(Health(), readings, rule=RULE, now=at(120)) == decided(Health(), readings)


def test_what_was_hot_long_ago_says_nothing_of_now_until_a_fresh_sample_does() -> None:
    old = decided(Health(), heat(*[95.0] * 30), now=at(290 + 91))
    assert (old.healthy, old.streak) == (True, Streak(True, at(0), at(290)))
    assert not decided(old, heat(95, start=370), now=at(381)).healthy
    assert not decided(Health(), heat(*[95.0] * 30), now=at(290 + 90)).healthy


def test_recovery_needs_more_than_the_limit_for_its_time() -> None:
    hot = decided(Health(), heat(*[95.0] * 13))
    assert not decided(hot, heat(*[85.0] * 50, start=130)).healthy
    assert not decided(hot, heat(*[84.9] * 12, start=130)).healthy
    assert not decided(hot, heat(*[84.9] * 12, 85, 84.9, 84.9, start=130)).healthy
    assert not decided(hot, heat(*[84.9] * 2, every=91, start=130)).healthy
    cooled = decided(hot, heat(*[84.9] * 13, start=130))
    assert (cooled.healthy, cooled.cause, cooled.reason, cooled.streak) == (True, "", "", None)


def test_what_was_cool_long_ago_brings_nobody_back() -> None:
    hot = decided(Health(), heat(*[95.0] * 13))
    assert not decided(hot, heat(*[40.0] * 30, start=130), now=at(130 + 290 + 91)).healthy


def test_heat_in_between_ends_coolness_and_coolness_ends_heat() -> None:
    hot = decided(Health(), heat(*[95.0] * 13))
    assert not decided(hot, heat(*[40.0] * 11, 95, 40, 40, start=130)).healthy
    assert decided(hot, heat(40, 40, 95, start=130)).streak == Streak(True, at(150), at(150))
    assert decided(Health(), heat(95, 40)).streak is None


def test_who_is_marked_healthy_while_it_is_hot_leaves_again_and_while_it_cools_stays() -> None:
    hot = decided(Health(), heat(*[95.0] * 13))
    marked = replace(hot, healthy=True, cause="", reason="")
    assert not decided(marked, heat(95, start=130)).healthy
    cooling = decided(hot, heat(40, 40, start=130))
    marked = replace(cooling, healthy=True, cause="", reason="")
    assert decided(marked, heat(40, start=150)) == Health()


def test_a_gpu_that_is_out_for_another_reason_cools_down_to_nothing() -> None:
    ill = Health(healthy=False, cause="xid", reason="XID 79", last_xid=None)
    assert decided(ill, heat(*[40.0] * 30)) == ill


@pytest.mark.parametrize("xid", sorted(FATAL_XIDS))
def test_a_fatal_xid_stays_whatever_the_temperature(xid: int) -> None:
    health = decided(Health(), [Reading(NOW, xid=xid), COOL, COOL])
    assert (health.healthy, health.cause) == (False, "xid")
    assert health.reason.startswith(f"XID {xid}: ")


@pytest.mark.parametrize("xid", [None, 0, 13, 31, 43, 45, 63, 92, 94])
def test_an_applications_xid_is_no_fault_of_the_gpu(xid: int | None) -> None:
    assert decided(Health(), [Reading(NOW, xid=xid)]).healthy


def test_a_fatal_xid_outranks_heat_which_would_pass() -> None:
    hot = decided(Health(), heat(*[95.0] * 13))
    assert decided(hot, [Reading(at(130), 95, 48), *heat(*[40.0] * 30, start=140)]).cause == "xid"


def test_a_fatal_xid_outranks_a_disappearance_which_would_end_with_the_return() -> None:
    vanished = Health(healthy=False, cause="vanished", reason="Its node's registration no longer names it.")
    assert decided(vanished, [Reading(NOW, xid=79)]).cause == "xid"
    assert decided(vanished, [Reading(NOW, xid=31), *heat(*[95.0] * 30)]).cause == "vanished"


def test_an_xid_that_is_only_repeated_is_no_news() -> None:
    marked_healthy = Health(last_xid=79)
    assert decided(marked_healthy, [Reading(NOW, xid=79)] * 3).healthy
    assert not decided(marked_healthy, [Reading(NOW, xid=None), Reading(NOW, xid=79)]).healthy


def test_readings_do_not_overrule_an_operator() -> None:
    marked = Health(healthy=False, cause="operator", reason="fan is loud")
    after = decided(marked, [COOL, Reading(NOW, 50, 79), *heat(*[95.0] * 30), *heat(*[40.0] * 30, start=300)])
    assert (after.healthy, after.cause, after.reason) == (False, "operator", "fan is loud")


def test_the_catalogue_says_what_is_fatal() -> None:
    by_action = {46, 62, 64, 79, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}
    assert set(FATAL_XIDS) == by_action | {48, 74, 171, 172}
    assert FATAL_XIDS[79] == XIDS[79].meaning == "GPU has fallen off the bus"
    assert not {number for number, xid in XIDS.items() if xid.action == "RESTART_APP"} & set(FATAL_XIDS)


def test_memory_that_shrank_is_told_once() -> None:
    had = Health(memory_total_mb=81_559)
    assert decided(had, [Reading(NOW, memory_total_mb=81_000), Reading(NOW)]).healthy
    lost = decided(had, [Reading(NOW, memory_total_mb=40_000)])
    assert (lost.healthy, lost.cause, lost.reason) == (False, "memory", "Its memory shrank from 81,559 to 40,000 MB.")
    marked_healthy = Health(memory_total_mb=40_000)
    assert decided(marked_healthy, [Reading(NOW, memory_total_mb=40_000), COOL]).healthy
    assert decided(lost, [COOL, Reading(NOW, memory_total_mb=81_559)]).cause == "memory"


def test_memory_has_shrunk_when_less_than_98_of_100_are_left() -> None:
    assert decided(Health(memory_total_mb=100_000), [Reading(NOW, memory_total_mb=98_000)]).healthy
    assert not decided(Health(memory_total_mb=100_000), [Reading(NOW, memory_total_mb=97_999)]).healthy


def test_after_it_was_told_what_is_left_is_what_it_has() -> None:
    lost = decided(Health(memory_total_mb=81_559), [Reading(NOW, memory_total_mb=40_000)])
    marked = replace(lost, healthy=True, cause="", reason="")
    assert decided(marked, [Reading(NOW, memory_total_mb=40_000)]).healthy
    grown = decided(marked, [Reading(NOW, memory_total_mb=81_559)])
    assert grown.healthy
    assert decided(grown, [Reading(NOW, memory_total_mb=40_000)]).cause == "memory"


def test_lost_memory_outranks_heat_alone_and_only_a_fatal_xid_outranks_it_in_the_same_sample() -> None:
    hot = replace(decided(Health(), heat(*[95.0] * 13)), memory_total_mb=81_559)
    lost = decided(hot, [Reading(at(130), 95, memory_total_mb=40_000)])
    assert lost.cause == "memory"
    assert decided(lost, [Reading(at(140), xid=79)]).cause == "memory"
    both = Reading(at(130), 95, 79, 40_000)
    assert decided(hot, [both]).cause == "xid"
    for cause in ("xid", "vanished", "operator"):
        ill = Health(healthy=False, cause=cause, reason="why", memory_total_mb=81_559)
        after = decided(ill, [Reading(NOW, memory_total_mb=40_000)])
        assert (after.cause, after.reason, after.memory_total_mb) == (cause, "why", 40_000)


@pytest.mark.parametrize(
    ("fleet", "unhealthy", "allowed"),
    [(1, 0, True), (50, 7, True), (50, 8, False), (1000, 99, True), (1000, 100, False)],
)
def test_the_breaker(fleet: int, unhealthy: int, allowed: bool) -> None:
    assert may_quarantine(fleet=fleet, unhealthy=unhealthy, share=0.1) is allowed
