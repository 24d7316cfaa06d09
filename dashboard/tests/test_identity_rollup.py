"""The daily rollup says exactly what the ledger's ranges say, also after the past has changed, and while it changes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from threading import Thread

import pytest
from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.models import GPU, GPUStatePeriod
from clusters.tests.factories import make_gpu
from dashboard.tests.test_identity import (
    BEGINNING,
    MODELS,
    Device,
    History,
    Kind,
    Stretch,
    Waiter,
    at,
    groupings,
    histories,
    many_examples,
    write,
)
from jobs import ledger
from jobs.ledger import By, Scope
from jobs.ledger.reading import parameters_of, rolled_days, usable_blocks
from jobs.ledger.rollups import SETTLES_IN, missing_days, roll_up
from jobs.models import Allocation, GpuBlock, GpuDay, Job, LedgerBlock, LedgerDay, WaitPeriod

pytestmark = pytest.mark.django_db

A_DAY = 86_400
LATER = BEGINNING + timedelta(days=5)
# The history's few minutes lie round the midnight between these two days; what is open goes on for ever.
DAYS = [date(2026, 11, 22), date(2026, 11, 23), date(2026, 11, 24), date(2026, 11, 25), date(2026, 11, 26)]
SOME_DAYS = Scope(at(-A_DAY), at(3 * A_DAY))

edges = st.tuples(st.integers(-50, 350), st.integers(-1, 4)).map(lambda edge: edge[0] + edge[1] * A_DAY)


def both_ways(scope: Scope, by: set[By]) -> tuple[list[object], list[object]]:
    """The answers from the rollup and from the ranges."""
    answers: list[list[object]] = []
    prices = {(segment, model): 7 * segment + len(model) for segment in range(2) for model in MODELS[:2]}
    for rollup in (True, False):
        answers.append([*ledger.accounts(scope, by, rollup=rollup), *ledger.sales(scope, by, rollup=rollup)])
        answers[-1] += ledger.sales(scope, {*by, By.TENANT, By.RATE}, rollup=rollup)
        if By.DAY not in by:
            spent = ledger.unsold(scope, prices, most=2, rollup=rollup)
            answers[-1] += [set(spent.accounts), spent.rankings]
    return answers[0], answers[1]


some_cuts = st.sampled_from([[], [100], [100, 200], [200, A_DAY + 7], [150, 3 * A_DAY]])


@given(histories, st.tuples(edges, edges).map(sorted), groupings, some_cuts, some_cuts)
@settings(many_examples, max_examples=80)
def test_the_rollup_equals_the_ranges(
    db: None, history: History, window: list[int], by: set[By], cuts: list[int], known: list[int]
) -> None:
    with transaction.atomic():
        write(history)
        roll_up(now=LATER, cuts=[at(cut) for cut in known])
        scope = Scope(at(window[0]), at(window[1]), cuts=[at(cut) for cut in cuts])
        rolled, raw = both_ways(scope, by)
        transaction.set_rollback(True)
    assert rolled == raw


# The ten days from the 20th are one block, and the histories' midnight lies in it.
BLOCK_BEGINS = date(2026, 11, 20)
LONG_AFTER = BEGINNING + timedelta(days=9)
wide_edges = st.tuples(st.integers(-50, 350), st.integers(-4, 9)).map(lambda edge: edge[0] + edge[1] * A_DAY)
around_the_block = st.tuples(
    st.integers(-5 * A_DAY, -3 * A_DAY) | wide_edges, st.integers(7 * A_DAY, 10 * A_DAY) | wide_edges
).map(sorted)


def an_old_gpu() -> None:
    """The ledger began before the block did."""
    gpu = make_gpu(model="H100", registered_at=at(-5 * A_DAY))
    GPUStatePeriod.objects.filter(gpu=gpu).delete()
    GPUStatePeriod.objects.create(gpu=gpu, state="available", during=DateTimeTZRange(at(-5 * A_DAY), at(-4 * A_DAY)))


@given(histories, around_the_block, groupings, some_cuts, some_cuts)
@settings(many_examples, max_examples=80)
def test_blocks_of_days_equal_the_ranges(
    db: None, history: History, window: list[int], by: set[By], cuts: list[int], known: list[int]
) -> None:
    with transaction.atomic():
        write(history)
        an_old_gpu()
        roll_up(now=LONG_AFTER, cuts=[at(cut) for cut in known])
        assert list(LedgerBlock.objects.values_list("first_day", flat=True)) == [BLOCK_BEGINS]
        scope = Scope(at(window[0]), at(window[1]), cuts=[at(cut) for cut in cuts])
        rolled, raw = both_ways(scope, by)
        transaction.set_rollback(True)
    assert rolled == raw


ROUND_THE_BLOCK = Scope(at(-4 * A_DAY), at(9 * A_DAY))


def blocks_used(scope: Scope = ROUND_THE_BLOCK) -> list[date]:
    return usable_blocks(scope, rolled_days(scope))


def test_a_block_is_read_for_its_days_and_not_where_the_question_cuts_it() -> None:
    write(busy_days())
    an_old_gpu()
    roll_up(now=LONG_AFTER)
    assert blocks_used() == [BLOCK_BEGINS]
    assert blocks_used(replace(ROUND_THE_BLOCK, cuts=[at(A_DAY)])) == []
    assert blocks_used(Scope(at(-A_DAY), at(9 * A_DAY))) == []
    assert blocks_used(Scope(at(-4 * A_DAY), at(6 * A_DAY))) == []
    GpuBlock.objects.all().delete()  # Nobody may do this; it shows that the answer came from there.
    with_, without = both_ways(ROUND_THE_BLOCK, set())
    assert with_ != without
    by_day, from_ranges = both_ways(ROUND_THE_BLOCK, {By.DAY})
    assert by_day == from_ranges


def test_a_block_is_of_the_segment_in_which_it_begins() -> None:
    write(busy_days())
    an_old_gpu()
    roll_up(now=LONG_AFTER)
    question = Scope(at(-5 * A_DAY), at(9 * A_DAY), cuts=[at(-5 * A_DAY + 3600), at(8 * A_DAY)])
    assert blocks_used(question) == [BLOCK_BEGINS]
    rolled, raw = both_ways(question, {By.SEGMENT})
    assert rolled == raw


def test_a_change_of_one_day_takes_its_block_back_until_both_are_summed_up_anew() -> None:
    world = write(busy_days())
    an_old_gpu()
    roll_up(now=LONG_AFTER)
    Allocation.objects.create(
        job=Job.objects.all()[0], gpu_id=world.gpus[1], during=DateTimeTZRange(at(A_DAY), at(A_DAY + 60))
    )
    assert blocks_used() == []
    assert both_ways(ROUND_THE_BLOCK, {By.GPU})[0] == both_ways(ROUND_THE_BLOCK, {By.GPU})[1]
    days = missing_days({}, now=LONG_AFTER)
    assert roll_up(now=LONG_AFTER) == len(days) == 1
    assert blocks_used() == [BLOCK_BEGINS]
    rolled, raw = both_ways(ROUND_THE_BLOCK, {By.GPU})
    assert rolled == raw


def busy_days() -> History:
    """One GPU that is sold and idle, and a job that waits, from the first minute on."""
    states = [Stretch(0, 200, "available"), Stretch(200, 250, "unhealthy"), Stretch(250, None, "available")]
    sold = [Stretch(10, 190, (1, None)), Stretch(300, None, (2, None))]
    other = Device(2, "H100", [Stretch(0, None, "available")], [])
    return History([Device(0, "H100", states, sold), other], [Waiter(Kind(1, ""), [Stretch(0, None, "quota")])])


def rolled() -> list[date]:
    return sorted(rolled_days(Scope(at(-10 * A_DAY), at(10 * A_DAY))))


def test_past_days_are_rolled_up_once_and_read_from_there() -> None:
    write(busy_days())
    assert roll_up(now=LATER) == 5
    assert rolled() == DAYS
    assert (roll_up(now=LATER), missing_days({}, now=LATER)) == (0, [])
    GpuDay.objects.filter(start__date=DAYS[1]).delete()  # Nobody may do this; it shows that the answer came from there.
    with_, without = both_ways(SOME_DAYS, {By.DAY})
    assert with_ != without


def test_a_day_that_is_not_over_or_has_just_ended_is_left_alone() -> None:
    write(busy_days())
    midnight = BEGINNING.replace(hour=0, minute=0, second=0) + 2 * timedelta(days=1)
    assert missing_days({}, now=midnight + SETTLES_IN - timedelta(seconds=1)) == [DAYS[0]]
    assert missing_days({}, now=midnight + SETTLES_IN) == [DAYS[1], DAYS[0]]


def test_an_empty_ledger_has_no_days() -> None:
    assert roll_up(now=LATER) == 0


def test_a_few_days_at_a_time_and_the_newest_first() -> None:
    write(busy_days())
    assert roll_up(now=LATER, most=2) == 2
    assert rolled() == DAYS[3:]
    assert roll_up(now=LATER, most=9) == 3


def test_a_day_is_cut_where_prices_change_also_when_that_is_known_later() -> None:
    write(busy_days())
    question = Scope(at(-A_DAY), at(3 * A_DAY), cuts=[at(A_DAY + 7), at(2 * A_DAY + 150)])  # The second is a midnight.
    roll_up(now=LATER)
    assert len(parameters_of(question, [], rolled_days(question))["rolled_starts"]) == 2
    assert roll_up(now=LATER, cuts=question.cuts) == 1
    assert len(parameters_of(question, [], rolled_days(question))["rolled_starts"]) == 4
    assert roll_up(now=LATER, cuts=question.cuts) == 0
    rolled_too, raw = both_ways(question, {By.SEGMENT})
    assert rolled_too == raw


def close_open_allocation_late() -> None:
    Allocation.objects.filter(during__upper_inf=True).update(during=DateTimeTZRange(at(300), at(A_DAY + 400)))


def sell_in_the_past() -> None:
    gpu = GPU.objects.get(node__cluster__name="two")
    job = Job.objects.get(name="holder")
    Allocation.objects.create(job=job, gpu=gpu, during=DateTimeTZRange(at(A_DAY + 500), at(A_DAY + 501)))


def rename_a_state() -> None:
    GPUStatePeriod.objects.filter(state="unhealthy").update(state="offline")


def delete_an_allocation() -> None:
    Allocation.objects.filter(during__upper_inf=False).delete()


def end_a_wait_late() -> None:
    WaitPeriod.objects.update(during=DateTimeTZRange(at(0), at(2 * A_DAY)))


def wait_in_the_past() -> None:
    job = Job.objects.create(cluster=Job.objects.get(name="waiter").cluster, name="late", submitted_at=at(0))
    WaitPeriod.objects.create(job=job, code="scheduler", during=DateTimeTZRange(at(100), at(200)))


def name_a_model() -> None:
    GPU.objects.filter(node__cluster__name="one").update(model="A100")


CHANGES: list[tuple[Callable[[], None], list[date]]] = [
    (close_open_allocation_late, DAYS[:2]),
    (sell_in_the_past, [*DAYS[:2], *DAYS[3:]]),
    (rename_a_state, [DAYS[0], *DAYS[2:]]),
    (delete_an_allocation, DAYS[2:]),
    (end_a_wait_late, DAYS[:2]),
    (wait_in_the_past, DAYS[2:]),
    (name_a_model, []),
]


@pytest.mark.parametrize(("change", "left"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_change_of_the_past_takes_the_touched_days_back(change: Callable[[], None], left: list[date]) -> None:
    write(busy_days())
    roll_up(now=LATER)
    before, _ = both_ways(SOME_DAYS, {By.MODEL})
    change()
    assert rolled() == left
    after, raw = both_ways(SOME_DAYS, {By.MODEL})
    assert after == raw != before
    assert roll_up(now=LATER) == len(DAYS) - len(left)
    assert both_ways(SOME_DAYS, {By.MODEL})[0] == raw


def test_the_daily_business_touches_no_rolled_day() -> None:
    write(busy_days())
    roll_up(now=LATER)
    Allocation.objects.filter(during__upper_inf=True).update(during=DateTimeTZRange(at(300), LATER))
    WaitPeriod.objects.update(during=DateTimeTZRange(at(0), LATER))
    GPUStatePeriod.objects.filter(during__startswith=at(250)).update(during=DateTimeTZRange(at(250), LATER))
    GPU.objects.update(health_reason="nothing that matters", model="H100")
    gpu = GPU.objects.get(node__cluster__name="one")
    Allocation.objects.create(job=Job.objects.get(name="holder"), gpu=gpu, during=DateTimeTZRange(LATER, None))
    assert rolled() == DAYS


def roll_up_elsewhere(done: list[int]) -> None:
    """In a thread, with a connection of its own."""
    try:
        done.append(roll_up(now=LATER))
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_whoever_writes_the_past_while_it_is_rolled_up_is_not_missed() -> None:
    write(busy_days())
    with transaction.atomic():
        sell_in_the_past()  # Not committed, and before any day was announced: no trigger can know.
        done: list[int] = []
        other = Thread(target=roll_up_elsewhere, args=[done])
        other.start()
        other.join(1)
        assert other.is_alive()  # It waits for us.
    other.join()
    assert done == [5]
    with_, without = both_ways(SOME_DAYS, {By.GPU, By.DAY})
    assert with_ == without


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_long_for_a_writer_that_does_not_end() -> None:
    write(busy_days())
    with transaction.atomic():
        sell_in_the_past()
        done: list[int] = []
        other = Thread(target=roll_up_elsewhere, args=[done])
        other.start()
        other.join()
        assert done == [0]
    assert (rolled(), LedgerDay.objects.count()) == ([], 5)  # Announced, and read by nobody.
    assert roll_up(now=LATER) == 5
