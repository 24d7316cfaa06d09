"""The quick way of a metric batch, beside the other one: decoding, rounding and packing by column."""

import itertools
import json
from array import array
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.frames import Frame, frames_of, pack_frames, pack_runs, runs_of
from clusters.telemetry import BadBatch, Columns, decode, decode_quickly
from clusters.tests.factories import NOW

sent = st.fixed_dictionaries(
    {"gpu_id": st.integers(-1, 6) | st.just("1")},
    optional={
        "utilization_pct": st.none() | st.integers(-1, 101) | st.floats(0, 100),
        "memory_used_mb": st.none() | st.floats(0, 1e5) | st.just(True),
        "temperature_c": st.none() | st.floats(-110, 310),
        "xid": st.none() | st.integers(-1, 2),
        "recorded_at": st.none()
        | st.sampled_from([NOW, NOW - timedelta(hours=25), NOW + timedelta(minutes=2)]).map(datetime.isoformat),
        "other": st.just(1),
    },
)


@given(st.lists(sent, max_size=5), st.sampled_from([(",", ":"), (", ", ": "), (",", " :")]))
def test_the_quick_way_takes_nothing_that_the_other_refuses(metrics: list[dict[str, Any]], signs: Any) -> None:
    raw = json.dumps({"metrics": metrics}, separators=signs).encode()
    columns = decode_quickly(raw, now=NOW)
    if columns is None:
        return
    samples = decode(json.loads(raw), now=NOW)
    assert list(columns.gpu_ids) == [sample.gpu_id for sample in samples]
    assert list(columns.times) == [sample.recorded_at for sample in samples]
    used = columns.figures[1] or [None] * len(samples)
    assert list(used) == [sample.memory_used_mb for sample in samples]
    heat = columns.figures[3] or [None] * len(samples)
    assert list(heat) == [None if one.temperature_c is None else round(one.temperature_c * 1000) for one in samples]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"metrics":[{"gpu_id":1,"gpu_id":2}]}',
        b'{"metrics":[{"gpu_id":1}],"metrics":[{"gpu_id":2}]}',
        b'{"metrics":[{"gpu_id":1,"power_draw_w":1},{"gpu_id":2,"power_draw_w":1,"power_draw_w":2}]}',
        b'{"metrics":[{"gpu_id":1,"power_draw_w":NaN}]}',
        b'{"metrics":[{"gpu_id":1,"power_draw_w":1e999}]}',
        b'{"metrics":[{"gpu_id":1},{"gpu_id":1}]}',
        b'{"metrics":[{"gpu_id":1,"recorded_at":"2026-11-22T11:59:59Z"}]}',
        b'{"metrics":[{"gpu_id":1,"recorded_at":"2026-11-23T12:01:01Z"}]}',
        b'{"metrics":[{"gpu_id":1,"recorded_at":"2026-11-23T12:00:00Z"},{"gpu_id":2,"recorded_at":"2026-11-23T12:02:00Z"}]}',
        b'{"metrics":[]}',
        b'{"metrics":[{"gpu_id":1,"\xff":1}]}',
        b"",
    ],
)
def test_what_the_quick_way_leaves_to_the_other(raw: bytes) -> None:
    assert decode_quickly(raw, now=NOW) is None


@pytest.mark.parametrize("power", [0.0005, 0.0015, 0.0025, 0.4999995, 1.0005, 99_999.9995, 100_000, 0])
@pytest.mark.parametrize("used", [0, 0.5, 1.5, 2.5, 81_559.49999, 2**31 - 1, 2**31 - 1.5])
def test_figures_are_rounded_as_the_other_way_rounds_them(power: float, used: float) -> None:
    sent = {"gpu_id": 1, "power_draw_w": power, "memory_used_mb": used, "temperature_c": -power / 1000}
    raw = json.dumps({"metrics": [sent, {**sent, "gpu_id": 2}]}).encode()
    columns = decode_quickly(raw, now=NOW)
    assert columns is not None
    _, memory, _, heat, watts, _ = columns.figures
    assert memory is not None
    assert heat is not None
    assert watts is not None
    (frame,) = frames_of(decode(json.loads(raw), now=NOW), {1: 7, 2: 7})
    assert [list(memory), list(heat), list(watts)] == [list(frame.columns[place] or ()) for place in (1, 3, 4)]


def test_the_quick_way_takes_what_agents_send() -> None:
    sample = {"gpu_id": 1, "utilization_pct": 93.5, "memory_used_mb": 1, "temperature_c": 61, "xid": 0}
    assert decode_quickly(json.dumps({"metrics": [sample]}).encode(), now=NOW) is not None
    with pytest.raises(BadBatch):
        decode({"metrics": [{**sample, "gpu_id": 0}]}, now=NOW)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.none() | st.integers(-100_000, 300_000)), max_size=12),
    st.booleans(),
)
def test_a_batch_packed_by_column_is_its_frames_packed_one_by_one(samples: list[Any], whole: bool) -> None:
    if whole:
        samples = [(node, second, value or 0) for node, second, value in samples]
    times = [NOW + timedelta(seconds=second) for _, second, _ in samples]
    values = [value for *_, value in samples]
    ids = [number * 2**33 for number in range(len(samples))]
    others = [None if value is None else -value for value in values]
    used, total = [
        array("i", column) if whole else column for column in (values, others)
    ]  # As the quick way gives them.
    columns = Columns(ids, times, [None, used, total, None, None, None], len(set(times)) == 1)
    runs = runs_of(columns, [node for node, *_ in samples])
    assert [run.begin for run in runs] == [0, *(run.end for run in runs)][:-1]
    neighbours = itertools.groupby(zip([node for node, *_ in samples], times, strict=True))
    assert [(*run[:2], run.end - run.begin) for run in runs] == [(*key, len(list(same))) for key, same in neighbours]
    apart = [
        Frame(node, at, ids[begin:end], [None, values[begin:end], others[begin:end], None, None, None])
        for node, at, begin, end, _ in runs
    ]
    assert pack_runs(columns, runs) == pack_frames(apart)
