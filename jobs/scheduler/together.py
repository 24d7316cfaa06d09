"""Asking the database many things in one round trip."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from django.db import connection

Question = tuple[str, Mapping[str, Any]]


def ask_together(
    questions: Sequence[Question], meanwhile: Callable[[], object] | None = None
) -> list[list[tuple[Any, ...]]]:
    """The rows that answer each question, which were asked one after the other, in this order, without waiting for
    the answers in between (PostgreSQL's pipeline mode). Outside a transaction each sees all that was committed when it
    began. The answers come in PostgreSQL's binary format, from which the driver makes an instant in far less time.
    ``meanwhile`` is done while the database is at work."""
    connection.ensure_connection()
    session = connection.connection
    with connection.wrap_database_errors:
        with session.pipeline():
            cursors = [psycopg.Cursor(session).execute(*question, binary=True) for question in questions]
            if meanwhile is not None:
                meanwhile()
        return [cursor.fetchall() if cursor.description is not None else [] for cursor in cursors]
