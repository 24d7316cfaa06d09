"""Writing many rows in short transactions, such that one row that can't be written leaves out itself alone."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from django.db import DatabaseError, connection

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def write_in_pieces(items: Iterable[Item], size: int, write: Callable[[Sequence[Item]], int]) -> tuple[int, list[Item]]:
    """Give the items to ``write``, so many at a time. Each call is one transaction, and says how many it wrote.

    A piece that the database refuses is halved until the faulty item is alone. Returns how many were written, and the
    faulty ones. Raises what the database said when the connection is gone, and with it the scheduler's lock.
    """
    connection.ensure_connection()
    session = connection.connection
    written, faulty = 0, []
    for piece in _batched(items, size):
        done, refused = _write(piece, write, session)
        written += done
        faulty += refused
    return written, faulty


def in_lanes(lanes: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
    """Do this with each of the lanes, all at once: the first here, every other one in a thread and a connection of its
    own. Raises what the first of them raised that failed, when all are over."""
    with ThreadPoolExecutor(max_workers=max(1, len(lanes) - 1), thread_name_prefix="lane") as others:
        waiting = [others.submit(_with_own_connection, work, lane) for lane in lanes[1:]]
        first = work(lanes[0])
    return [first, *(one.result() for one in waiting)]


def _with_own_connection(work: Callable[[Item], Result], lane: Item) -> Result:
    try:
        return work(lane)
    finally:
        connection.close()


def _write(piece: Sequence[Item], write: Callable[[Sequence[Item]], int], session: Any) -> tuple[int, list[Item]]:
    try:
        return write(piece), []
    except DatabaseError:
        # Django leaves a transaction whose connection broke with a new one, which does not hold the lock.
        if connection.connection is not session or not connection.is_usable():
            raise
        if len(piece) == 1:
            logger.exception("the database refuses %r", piece[0])
            return 0, list(piece)
    middle = len(piece) // 2
    (first, one), (second, other) = _write(piece[:middle], write, session), _write(piece[middle:], write, session)
    return first + second, one + other


def _batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
