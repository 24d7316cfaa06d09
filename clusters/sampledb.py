"""The database that holds samples, rollups and their outbox: the main one, or with ``METRICS_DATABASE_URL`` another.

No statement speaks of both. Where the two are one, what is asked of either is part of one transaction.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper


def samples_connection() -> BaseDatabaseWrapper:
    """This thread's connection."""
    return connections[settings.SAMPLES_DATABASE]


def in_transaction_of_samples(*, savepoint: bool = True) -> AbstractContextManager[None]:
    """A transaction of the samples' database. Inside one of the main database it commits first, or is a part of it."""
    return transaction.atomic(using=settings.SAMPLES_DATABASE, savepoint=savepoint)


def are_together() -> bool:
    """Whether samples are in the main database."""
    return bool(settings.SAMPLES_DATABASE == DEFAULT_DB_ALIAS)


def for_main_database(
    statement: str, params: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """A query of samples as a part of a statement of the main database, with its parameters.

    ``columns`` are the query's, each with its type. It is the query itself where the two are one database; else what
    it found, as arrays.
    """
    if are_together():
        return statement, dict(params)
    with samples_connection().cursor() as cursor:
        cursor.execute(statement, params)
        rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
    found = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in columns.items())
    return f"SELECT * FROM unnest({arrays}) AS carried ({', '.join(columns)})", {  # noqa: S608  (names of columns)
        name: found.get(name, []) for name in columns
    }


class SamplesRouter:
    """Keeps models of samples, and the migrations that say so (``hints={"samples": True}``), in their database.

    The main database has the tables too, so that samples may be moved out later, and back.
    """

    def db_for_read(self, model: type, **_: Any) -> str | None:
        """The samples' database for what is read from samples."""
        return settings.SAMPLES_DATABASE if getattr(model, "of_samples", False) else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Nothing but samples into a database of their own."""
        if db == DEFAULT_DB_ALIAS:
            return None
        return bool(hints.get("samples"))
