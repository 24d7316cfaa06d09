"""The table of moves: whole, and agreed with what the API promises."""

import pytest

from jobs.models import JobStatus
from jobs.states import ENDED, MOVES, SCHEDULER_MOVES, WAITING, legal_moves, scheduler_sources


def test_the_tables_know_every_status_and_no_other() -> None:
    assert set(MOVES) == set(SCHEDULER_MOVES) == set(JobStatus.values)
    assert {target for moves in (MOVES, SCHEDULER_MOVES) for targets in moves.values() for target in targets} <= set(
        MOVES
    )


def test_what_a_client_may_ask_for() -> None:
    assert legal_moves("queued") == ("blocked", "cancelled")
    assert legal_moves("blocked") == ("queued", "cancelled")
    assert legal_moves("running") == ("queued", "completed", "failed", "cancelled")
    with pytest.raises(KeyError):
        legal_moves("sleeping")


def test_an_ended_job_stays_as_it_is() -> None:
    assert all(MOVES[status] == SCHEDULER_MOVES[status] == () for status in ENDED)


def test_the_scheduler_alone_starts_jobs() -> None:
    assert not any("running" in targets for targets in MOVES.values())
    assert scheduler_sources("running") == ("queued",)


def test_the_scheduler_cancels_what_waits_and_fails_what_runs() -> None:
    assert set(scheduler_sources("cancelled")) == WAITING
    assert scheduler_sources("failed") == ("running",)
    assert scheduler_sources("queued") == ("running",)
