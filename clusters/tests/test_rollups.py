"""The rollups against a plain count in Python over everything that was ever sent."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters import ingest, queries, rollups, series, services
from clusters.models import GPU
from clusters.series import FIELDS, SCALES, Piece, floor_to, pieces
from clusters.tests.factories import NOW, hold, make_gpu, make_node, make_sample, store_sample
from clusters.tests.threads import in_thread

pytestmark = pytest.mark.django_db

HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
NAMES = dict(
    zip(FIELDS, ("utilization_pct", "memory_used_mb", "memory_total_mb", "temperature_c", "power_draw_w"), strict=True)
)


def counted(sent: dict[datetime, dict[str, Any]], width: timedelta) -> list[tuple[Any, ...]]:
    """By bucket: start, samples, and of each field count, min, max, sum and last in the database's integers."""
    found: dict[datetime, list[dict[str, Any]]] = {}
    for at in sorted(sent):
        found.setdefault(floor_to(at, width), []).append(sent[at])
    rows = []
    for start, samples in found.items():
        spreads = []
        for field in FIELDS:
            values = [round(one[NAMES[field]] * SCALES[field]) for one in samples if one.get(NAMES[field]) is not None]
            some = (min(values), max(values), sum(values), values[-1]) if values else (None,) * 4
            spreads.append((len(values), *some))
        rows.append((start, len(samples), *spreads))
    return rows


def read(gpu: GPU, width: timedelta, start: datetime = MIDNIGHT - DAY, end: datetime = NOW + DAY) -> Any:
    found = series.buckets(node_id=gpu.node_id, gpu_id=gpu.pk, start=start, end=end, width=width)
    return [(bucket.start, bucket.samples, *map(tuple, bucket.spreads)) for bucket in found]


def forget_samples() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM clusters_metricframe")


figures = st.fixed_dictionaries(
    {},
    optional={
        "utilization_pct": st.floats(0, 100),
        "memory_used_mb": st.integers(0, 2**31 - 1),
        "temperature_c": st.floats(-100, 300),
        "power_draw_w": st.none() | st.floats(0, 100_000),
    },
)
minutes = st.integers(0, 36 * 60)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.lists(st.tuples(minutes, figures, st.booleans()), max_size=12), min_size=2, max_size=4).filter(
        any
    )
)
def test_rollups_say_what_the_samples_say(parts: list[list[tuple[int, dict[str, Any], bool]]]) -> None:
    """Samples come in several parts, in any order, some twice, and each part is rolled up; then the samples go."""
    with transaction.atomic():
        gpu, sent = make_gpu(), {}
        for number, part in enumerate(parts):
            now = MIDNIGHT + 37 * HOUR + number * 10 * MINUTE
            for minute, values, twice in part:
                at = MIDNIGHT + minute * MINUTE
                if at not in sent:
                    sent[at] = values
                    for _ in range(1 + twice):
                        store_sample(gpu, at, now=now, **values)
            rollups.roll_up(now=now)
        for width in (HOUR, DAY):
            assert read(gpu, width) == counted(sent, width)
        forget_samples()
        assert read(gpu, HOUR, MIDNIGHT, MIDNIGHT + 36 * HOUR) == counted(
            {at: one for at, one in sent.items() if at < MIDNIGHT + 36 * HOUR}, HOUR
        )
        assert read(gpu, DAY, MIDNIGHT, MIDNIGHT + DAY) == counted(
            {at: one for at, one in sent.items() if at < MIDNIGHT + DAY}, DAY
        )
        transaction.set_rollback(True)


def test_an_hour_is_rolled_up_once_and_not_before_its_grace_is_over() -> None:
    gpu = make_gpu()
    store_sample(gpu, NOW, utilization_pct=50)
    assert rollups.roll_up(now=NOW + HOUR + 4 * MINUTE) == 0
    assert rollups.roll_up(now=NOW + HOUR + 5 * MINUTE) == 1
    assert rollups.roll_up(now=NOW + HOUR + 5 * MINUTE) == 0
    assert rollups.rolled_until() == NOW + HOUR


def test_a_late_sample_is_in_every_answer_at_once_and_after_the_next_rollup() -> None:
    gpu, neighbour = make_gpu(), make_gpu()
    for one in (gpu, neighbour):
        store_sample(one, MIDNIGHT + 3 * HOUR, utilization_pct=50)
    rollups.roll_up(now=MIDNIGHT + 30 * HOUR)
    store_sample(gpu, MIDNIGHT + 3 * HOUR + MINUTE, now=MIDNIGHT + 30 * HOUR, utilization_pct=100)
    for _ in range(2):
        for width in (HOUR, DAY):
            ((_, samples, utilization, *_),) = read(gpu, width)
            assert (samples, utilization) == (2, (2, 50_000, 100_000, 150_000, 100_000))
            assert read(neighbour, width)[0][1] == 1
        assert rollups.roll_up(now=MIDNIGHT + 30 * HOUR) in (0, 1)
    forget_samples()
    assert read(gpu, DAY)[0][1] == read(gpu, HOUR)[0][1] == 2


def test_where_doubles_differ_samples_and_rollups_take_the_same_one() -> None:
    gpu = make_gpu()
    for utilization in (80, 20, 50):
        store_sample(gpu, NOW, utilization_pct=utilization)
    raw = read(gpu, HOUR)
    ((_, reading, *_),) = series.readings(node_id=gpu.node_id, gpu_id=gpu.pk, start=NOW, end=NOW + HOUR, limit=9)
    rollups.roll_up(now=NOW + 2 * HOUR)
    forget_samples()
    assert read(gpu, HOUR) == raw
    assert (reading, raw[0][1], raw[0][2]) == (20_000, 1, (1, 20_000, 20_000, 20_000, 20_000))


def test_a_batch_that_waited_until_its_hour_was_rolled_up_is_in_the_next_rollup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It came in its hour, and something held it up before the COPY."""
    gpu, monotonic, waited = make_gpu(), time.monotonic, [0.0]
    store_sample(gpu, NOW, utilization_pct=50)

    def wait(_: Any) -> None:
        waited[0] = 360
        rollups.roll_up(now=NOW + HOUR + 5 * MINUTE)

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + waited[0])
    monkeypatch.setattr(ingest, "ensure_partitions", wait)
    now = NOW + HOUR - MINUTE
    services.record_samples(samples=[make_sample(gpu, now, utilization_pct=100)], now=now)
    rollups.roll_up(now=NOW + HOUR + 10 * MINUTE)
    forget_samples()
    assert [samples for _, samples, *_ in read(gpu, HOUR)] == [2]


@pytest.fixture
def nothing_stored(transactional_db: None) -> None:
    """These are no model's tables, so that no test's end empties them."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate, clusters_metrichour, clusters_metricrollup")


def test_a_writer_that_began_in_the_hour_is_waited_for(nothing_stored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "PATIENCE_S", 0.2)
    gpu = make_gpu()
    later = NOW + 2 * HOUR
    with transaction.atomic():
        store_sample(gpu, NOW, utilization_pct=50)
        assert in_thread(lambda: rollups.roll_up(now=later)) == 0
    assert rollups.roll_up(now=later) >= 1
    assert read(gpu, HOUR)[0][1] == 1


def test_two_beats_at_once_do_the_work_once(nothing_stored: None) -> None:
    gpu = make_gpu()
    store_sample(gpu, NOW, utilization_pct=50)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO clusters_metricrollup (hours_until) VALUES (%s)", [NOW])
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(rollups.CLAIM)
        assert in_thread(lambda: rollups.roll_up(now=NOW + 2 * HOUR)) == 0
    assert rollups.roll_up(now=NOW + 2 * HOUR) == 1


def test_a_window_is_cut_where_the_levels_end() -> None:
    levels: Any = [("day", DAY), ("hour", HOUR)]
    start, end = MIDNIGHT + 90 * MINUTE, MIDNIGHT + 3 * DAY + 5 * HOUR + MINUTE
    until = MIDNIGHT + 3 * DAY + 4 * HOUR
    assert pieces(start, end, until=until, levels=levels) == [
        Piece("raw", start, MIDNIGHT + 2 * HOUR),
        Piece("hour", MIDNIGHT + 2 * HOUR, MIDNIGHT + DAY),
        Piece("day", MIDNIGHT + DAY, MIDNIGHT + 3 * DAY),
        Piece("hour", MIDNIGHT + 3 * DAY, until),
        Piece("raw", until, end),
    ]
    assert pieces(start, end, until=MIDNIGHT, levels=levels) == [Piece("raw", start, end)]
    assert pieces(start, end, until=until, levels=[]) == [Piece("raw", start, end)]


@given(start=minutes, length=minutes, until=minutes)
def test_pieces_cover_the_window_once(start: int, length: int, until: int) -> None:
    window = (MIDNIGHT + start * MINUTE, MIDNIGHT + (start + length) * MINUTE)
    found = pieces(*window, until=MIDNIGHT + until * MINUTE, levels=[("day", DAY), ("hour", HOUR)])
    at = window[0]
    for piece in found:
        assert piece.start == at
        at = piece.end
    assert at == window[1]


def test_what_sold_gpus_did() -> None:
    node = make_node()
    sold, half, idle, free = (make_gpu(node, registered_at=MIDNIGHT) for _ in range(4))
    hold(sold, since=MIDNIGHT)
    hold(half, since=MIDNIGHT + 2 * HOUR + 30 * MINUTE)
    hold(idle, since=MIDNIGHT + 2 * HOUR)
    for gpu, utilization in ((sold, 80), (half, 50), (idle, 4.9), (free, 70)):
        store_sample(gpu, MIDNIGHT + 2 * HOUR, utilization_pct=utilization)
    store_sample(sold, MIDNIGHT + 3 * HOUR)  # Nothing measured: it says nothing of what the GPU did.
    rollups.roll_up(now=MIDNIGHT + 30 * HOUR)
    found = queries.sold_utilisation(start=MIDNIGHT, end=MIDNIGHT + DAY)
    assert found.sold_seconds == 3600 + 1800 + 3600
    assert found.busy_seconds == pytest.approx(0.8 * 3600 + 0.5 * 1800 + 0.049 * 3600)
    assert found.idle_seconds == 3600
    assert queries.sold_utilisation(start=MIDNIGHT, end=MIDNIGHT + DAY, model="H100") == found
    nothing = queries.SoldUtilisation(0, 0, 0)
    assert queries.sold_utilisation(start=MIDNIGHT, end=MIDNIGHT + DAY, model="A100") == nothing
    assert queries.sold_utilisation(start=MIDNIGHT + DAY, end=MIDNIGHT + 2 * DAY) == nothing
    assert queries.hourly_utilisation([idle.pk, half.pk], start=MIDNIGHT, end=MIDNIGHT + DAY) == [
        (half.pk, MIDNIGHT + 2 * HOUR, 50.0),
        (idle.pk, MIDNIGHT + 2 * HOUR, 4.9),
    ]


def test_a_late_sample_changes_the_fleets_figure_too() -> None:
    gpu = make_gpu()
    hold(gpu, since=MIDNIGHT)
    store_sample(gpu, MIDNIGHT + 2 * HOUR, utilization_pct=80)
    rollups.roll_up(now=MIDNIGHT + 30 * HOUR)
    store_sample(gpu, MIDNIGHT + 3 * HOUR, now=MIDNIGHT + 30 * HOUR, utilization_pct=20)
    rollups.roll_up(now=MIDNIGHT + 30 * HOUR)
    assert queries.sold_utilisation(start=MIDNIGHT, end=MIDNIGHT + DAY).busy_seconds == pytest.approx(3600)


def test_a_mean_over_gpus_counts_each_sample_once_and_comes_from_the_hours_when_the_samples_are_gone() -> None:
    node = make_node()
    one, two, other = (make_gpu(node) for _ in range(3))
    for gpu, minute, percent in [(one, 1, 10.0), (one, 1, 10.0), (two, 2, 40.0), (one, 7, 60.0), (other, 1, 90.0)]:
        store_sample(gpu, MIDNIGHT + minute * MINUTE, utilization_pct=percent, temperature_c=50.0)
    asked = [(gpu.pk, node.pk, MIDNIGHT, MIDNIGHT + HOUR) for gpu in (one, two)]
    assert queries.mean_readings("utilization", asked, width=5 * MINUTE) == [
        (MIDNIGHT, 25.0),
        (MIDNIGHT + 5 * MINUTE, 60.0),
    ]
    early = [(one.pk, node.pk, MIDNIGHT, MIDNIGHT + 7 * MINUTE)]
    assert queries.mean_readings("utilization", early, width=5 * MINUTE) == [(MIDNIGHT, 10.0)]
    assert queries.mean_readings("temperature", early, width=5 * MINUTE) == [(MIDNIGHT, 50.0)]
    assert queries.mean_readings("temperature", [], width=MINUTE) == []
    rollups.roll_up(now=MIDNIGHT + DAY)
    forget_samples()
    hourly = queries.mean_readings("utilization", asked, width=5 * MINUTE)
    assert [at for at, _ in hourly] == [MIDNIGHT]
    assert hourly[0][1] == pytest.approx((10 + 60 + 40) / 3)


def test_a_day_that_is_partly_rolled_up_is_one_bucket() -> None:
    """Its first hours come from the rollup, its last from the samples, and a figure that only one part has counts."""
    gpu = make_gpu()
    sent: dict[datetime, dict[str, Any]] = {
        MIDNIGHT + HOUR: {"utilization_pct": 10, "power_draw_w": 300.5},
        MIDNIGHT + 2 * HOUR: {"utilization_pct": 90},
    }
    for at, values in sent.items():
        store_sample(gpu, at, now=at, **values)
    rollups.roll_up(now=MIDNIGHT + 3 * HOUR + 10 * MINUTE)
    later: dict[datetime, dict[str, Any]] = {MIDNIGHT + 3 * HOUR + MINUTE: {"utilization_pct": 20, "temperature_c": 50}}
    for at, values in later.items():
        store_sample(gpu, at, now=at, **values)
    assert read(gpu, DAY) == counted({**sent, **later}, DAY)
