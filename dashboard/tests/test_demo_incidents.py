import random
from datetime import UTC, datetime, timedelta

from dashboard.demo.incidents import OVERHEATING_EVERY, SILENCE_LASTS, overheating, silence

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STEP = timedelta(seconds=10)
NAMES = [f"node-{number}" for number in range(32)]


def test_trouble_strikes_one_at_a_time_about_as_often_as_it_should_and_passes() -> None:
    trouble, rng, strikes, struck_for = overheating(), random.Random(5), [], 0
    for step in range(6 * 60 * 24):
        before = set(trouble.struck)
        trouble.advance(NOON + STEP * step, STEP, NAMES, rng)
        strikes += [name for name in trouble.struck if name not in before]
        struck_for += len(trouble.struck)
        assert len(trouble.struck) <= 1
    per_day = timedelta(days=1) / OVERHEATING_EVERY
    assert 0.5 * per_day < len(strikes) < per_day
    assert len(set(strikes)) > 20
    assert timedelta(minutes=3) < STEP * struck_for / len(strikes) < timedelta(minutes=6.5)


def test_a_silence_lasts_as_long_as_was_drawn() -> None:
    trouble, rng = silence(), random.Random(1)
    while not trouble.struck:
        trouble.advance(NOON, timedelta(hours=1), NAMES, rng)
    (end,) = trouble.until.values()
    assert SILENCE_LASTS[0] <= end - NOON <= SILENCE_LASTS[1]
    name = set(trouble.struck)
    trouble.advance(end - STEP, timedelta(0), NAMES, rng)
    assert set(trouble.struck) == name
    trouble.advance(end, timedelta(0), NAMES, rng)
    assert not trouble.struck


def test_nothing_happens_to_nobody_and_in_no_time() -> None:
    trouble = silence()
    trouble.advance(NOON, timedelta(days=1), [], random.Random(1))
    trouble.advance(NOON, timedelta(0), NAMES, random.Random(1))
    assert not trouble.struck
