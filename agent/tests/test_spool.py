"""The spool, killed at every step that can be told apart from outside, and full."""

import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpufleet_agent.spool import MOST_SAMPLES, Spool

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def sample(number: int, at: datetime = NOW) -> dict[str, Any]:
    return {"gpu_id": number, "recorded_at": at.isoformat()}


def spool_at(folder: Path, most_bytes: int = 2**20) -> Spool:
    return Spool(folder, most_bytes=most_bytes)


def ids(spool: Spool, now: datetime = NOW) -> list[int]:
    """What it gives, in its order, until nothing is left."""
    found: list[int] = []
    while (batch := spool.oldest(now=now)) is not None:
        found += [one["gpu_id"] for one in batch.samples]
        spool.done(batch)
    return found


def test_what_was_kept_comes_back_in_order_over_restarts(tmp_path: Path) -> None:
    for number in range(5):
        spool_at(tmp_path).append([sample(number)])
    assert ids(spool_at(tmp_path)) == [0, 1, 2, 3, 4]
    assert spool_at(tmp_path).oldest(now=NOW) is None


def test_a_batch_that_was_tried_is_the_same_bytes_under_the_same_key_ever_after(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.append([sample(1)])
    first = spool.oldest(now=NOW)
    spool.append([sample(2)])
    again = spool_at(tmp_path).oldest(now=NOW)
    assert first is not None
    assert again is not None
    assert (first.key, first.body) == (again.key, again.body)


def test_a_line_that_a_kill_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    spool_at(tmp_path).append([sample(1)])
    with (tmp_path / "open.jsonl").open("a") as file:
        file.write('{"gpu_id": 7, "reco')
    spool = spool_at(tmp_path)
    spool.append([sample(2)])
    assert ids(spool) == [1, 2]


def test_a_kill_between_two_generations_leaves_the_newer(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.append([sample(1), sample(2), sample(3)])
    batch = spool.oldest(now=NOW)
    assert batch is not None
    old = batch.path.read_bytes()
    spool.drop(batch, [1])
    batch.path.write_bytes(old)
    assert ids(spool_at(tmp_path)) == [1, 3]


def test_a_batch_never_grows_beyond_what_the_server_takes(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    for start in range(0, 3 * MOST_SAMPLES, 500):
        spool.append([sample(start + number) for number in range(500)])
    batch = spool.oldest(now=NOW)
    assert batch is not None
    assert len(batch.samples) == MOST_SAMPLES
    assert ids(spool) == list(range(3 * MOST_SAMPLES))


def test_a_full_disk_share_loses_the_oldest_and_says_so(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, most_bytes=300_000)
    for start in range(0, 5 * MOST_SAMPLES, 500):
        spool.append([sample(start + number) for number in range(500)])
        assert spool.size() <= 300_000
    kept = ids(spool)
    assert spool.lost == 5 * MOST_SAMPLES - len(kept) > 0
    assert kept == list(range(spool.lost, 5 * MOST_SAMPLES))


def test_a_disk_that_is_full_costs_what_it_has_no_room_for_and_no_line_before_or_after(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.append([sample(1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size() + 20, hard))  # As a full disk: half a line fits.
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.append([sample(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.append([sample(3)])
    assert ids(spool) == [1, 3]


def test_what_the_server_takes_no_more_is_not_sent(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.append([sample(1, NOW - timedelta(hours=25)), sample(2)])
    assert ids(spool) == [2]
    assert spool.lost == 1
