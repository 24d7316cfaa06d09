from itertools import product

import pytest

from clusters.models import GPUHealth, GPUState, HealthCause, NodeIntent
from clusters.states import (
    HOT_SAMPLES,
    Cause,
    Circumstances,
    Health,
    Reading,
    State,
    decide_health,
    gpu_state,
    may_quarantine,
)
from clusters.tests.factories import NOW
from clusters.xids import FATAL_XIDS, XIDS

HOT = Reading(temperature_c=90)
WARM = Reading(temperature_c=87)
COOL = Reading(temperature_c=84.9)


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


def test_heat_must_last() -> None:
    assert decide_health(Health(), [HOT] * (HOT_SAMPLES - 1)).healthy
    assert decide_health(Health(), [HOT] * (HOT_SAMPLES - 1) + [WARM] + [HOT] * (HOT_SAMPLES - 1)).healthy
    hot = decide_health(Health(), [HOT] * HOT_SAMPLES)
    assert (hot.healthy, hot.cause, hot.reason) == (
        False,
        "temperature",
        "90 °C: 90 °C or more in 3 samples in a row.",
    )


def test_heat_is_counted_across_batches() -> None:
    health = Health()
    for _ in range(HOT_SAMPLES):
        health = decide_health(health, [HOT])
    assert not health.healthy
    assert decide_health(health, [HOT] * 100).hot_samples == HOT_SAMPLES


def test_a_sample_without_a_temperature_neither_heats_nor_cools() -> None:
    blind = Reading()
    assert not decide_health(Health(), [HOT, blind, HOT, blind, HOT]).healthy


def test_recovery_needs_more_than_the_limit() -> None:
    hot = decide_health(Health(), [HOT] * HOT_SAMPLES)
    assert not decide_health(hot, [WARM] * 50).healthy
    cooled = decide_health(hot, [WARM, COOL])
    assert (cooled.healthy, cooled.cause, cooled.reason) == (True, "", "")


@pytest.mark.parametrize("xid", sorted(FATAL_XIDS))
def test_a_fatal_xid_stays_whatever_the_temperature(xid: int) -> None:
    health = decide_health(Health(), [Reading(xid=xid), COOL, COOL])
    assert (health.healthy, health.cause) == (False, "xid")
    assert health.reason.startswith(f"XID {xid}: ")


@pytest.mark.parametrize("xid", [None, 0, 13, 31, 43, 45, 63, 92, 94])
def test_an_applications_xid_is_no_fault_of_the_gpu(xid: int | None) -> None:
    assert decide_health(Health(), [Reading(xid=xid)]).healthy


def test_a_fatal_xid_outranks_heat_which_would_pass() -> None:
    hot = decide_health(Health(), [HOT] * HOT_SAMPLES)
    assert decide_health(hot, [Reading(90, 48), COOL]).cause == "xid"


def test_a_fatal_xid_outranks_a_disappearance_which_would_end_with_the_return() -> None:
    vanished = Health(healthy=False, cause="vanished", reason="Its node's registration no longer names it.")
    assert decide_health(vanished, [Reading(xid=79)]).cause == "xid"
    assert decide_health(vanished, [Reading(xid=31), HOT]).cause == "vanished"


def test_an_xid_that_is_only_repeated_is_no_news() -> None:
    marked_healthy = Health(last_xid=79)
    assert decide_health(marked_healthy, [Reading(xid=79)] * 3).healthy
    assert not decide_health(marked_healthy, [Reading(xid=None), Reading(xid=79)]).healthy


def test_readings_do_not_overrule_an_operator() -> None:
    marked = Health(healthy=False, cause="operator", reason="fan is loud")
    after = decide_health(marked, [COOL, Reading(50, 79), *[HOT] * HOT_SAMPLES, COOL])
    assert (after.healthy, after.cause, after.reason) == (False, "operator", "fan is loud")


def test_the_catalogue_says_what_is_fatal() -> None:
    assert {46, 48, 62, 64, 74, 79, 95, 119, 120, 140, 143, 158} <= set(FATAL_XIDS)
    assert FATAL_XIDS[79] == XIDS[79].meaning == "GPU has fallen off the bus"
    assert not {number for number, xid in XIDS.items() if xid.action == "RESTART_APP"} & set(FATAL_XIDS)


def test_memory_that_shrank_is_told_once() -> None:
    had = Health(memory_total_mb=81_559)
    assert decide_health(had, [Reading(memory_total_mb=81_000), Reading()]).healthy
    lost = decide_health(had, [Reading(memory_total_mb=40_000)])
    assert (lost.healthy, lost.cause, lost.reason) == (False, "memory", "Its memory shrank from 81,559 to 40,000 MB.")
    marked_healthy = Health(memory_total_mb=40_000)
    assert decide_health(marked_healthy, [Reading(memory_total_mb=40_000), COOL]).healthy
    assert decide_health(lost, [COOL, Reading(memory_total_mb=81_559)]).cause == "memory"


@pytest.mark.parametrize(
    ("fleet", "unhealthy", "allowed"),
    [(1, 0, True), (50, 7, True), (50, 8, False), (1000, 99, True), (1000, 100, False)],
)
def test_the_breaker(fleet: int, unhealthy: int, allowed: bool) -> None:
    assert may_quarantine(fleet=fleet, unhealthy=unhealthy, share=0.1) is allowed
