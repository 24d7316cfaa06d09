"""Calls of services as a client makes them, some of which die half-way and are made again."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Any

from django.db import DatabaseError, connection, transaction

from benchmarks.reconcile_compare import Comparison
from gpufleet.common.errors import DomainError

KILLED_SHARE = 0.08
MOST_STATEMENTS = 30


class Killed(Exception):
    """Stands for the death of a process; whatever its transaction had done is gone."""


class Astray(Exception):
    """The services and the oracle differ so much that the world can't go on."""


class Calls(Comparison):
    """A killed call's transaction is aborted before one of its statements, or after all and before its commit."""

    def __init__(self, random: Random, number: int, now: datetime) -> None:
        super().__init__(number, now)
        self.random = random

    def do(self, call: Callable[[], Any], *, refused: bool = False) -> Any:
        """Make the call, perhaps after a death half-way; None when it was refused, as it should be or not."""
        if self.random.random() < KILLED_SHARE:
            self._die_within(call)
        try:
            result = call()
        except DomainError as refusal:
            self.counts["refusals"] += 1
            if not refused:
                raise Astray(f"refused: {refusal.detail}") from refusal
            return None
        except DatabaseError as refusal:
            raise Astray(f"the database refused: {refusal}") from refusal
        if refused:
            raise Astray(f"was not refused: {result!r}")
        return result

    def _die_within(self, call: Callable[[], Any]) -> None:
        statements = self.random.randint(0, MOST_STATEMENTS)

        def count(execute: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal statements
            statements -= 1
            if statements == -1:
                raise Killed
            return execute(*arguments)

        self.counts["kills"] += 1
        with suppress(Killed, DomainError, DatabaseError), transaction.atomic(), connection.execute_wrapper(count):
            call()
            raise Killed  # It lived through all its statements, and dies before its commit.
