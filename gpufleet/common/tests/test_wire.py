"""Statements in one message: what comes back, what is quoted, and what a failure leaves behind."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction
from psycopg import errors

from gpufleet.common.wire import PIECE, Rows, Wire

pytestmark = pytest.mark.django_db(transaction=True)

COPY = "COPY kept FROM STDIN"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE kept (text text)")
    yield Wire(connection)
    connection.close()


def kept(wire: Wire) -> int:
    return int(wire.run("SELECT count(*) FROM kept")[0][0][0] or 0)


def test_each_statement_has_its_rows(wire: Wire) -> None:
    assert wire.run("BEGIN", "SELECT 1, NULL UNION ALL SELECT 2, 'b' ORDER BY 1", "COMMIT") == [
        [],
        [(b"1", None), (b"2", b"b")],
        [],
    ]


@pytest.mark.parametrize("text", ["it's", "a\\", "\\' OR true --", "ä", '{"a":"%s"}'])
def test_text_is_quoted(wire: Wire, text: str) -> None:
    for conforming in ("on", "off"):
        wire.run(f"SET standard_conforming_strings = {conforming}")
        assert wire.run(wire.text("SELECT %s", [text])) == [[(text.encode(),)]]


def test_numbers_and_instants_are_arrays(wire: Wire) -> None:
    at = datetime(2026, 11, 28, 1, 2, 3, 4, tzinfo=UTC)
    asked = wire.text("SELECT %s::bigint[], (%s::timestamptz[])[1] = %s", [[1, -(2**63)], [at], at])
    assert wire.run(asked) == [[(b"{1,-9223372036854775808}", b"t")]]


def test_copied_data_knows_the_rows_before_it_and_goes_in_pieces(wire: Wire) -> None:
    seen: list[Rows] = []

    def data(answered: list[Rows]) -> list[bytes]:
        seen.extend(answered)
        return [b"x" * 1000 + b"\n"] * (3 * PIECE // 1000)

    wire.run("BEGIN", "SELECT 7", COPY, "COMMIT", copied=data)
    assert seen == [[], [(b"7",)]]
    assert kept(wire) == 3 * PIECE // 1000


def test_what_the_data_raises_ends_the_transaction_and_the_wire_goes_on(wire: Wire) -> None:
    def refuse(_: list[Rows]) -> list[bytes]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        wire.run("BEGIN", "INSERT INTO kept VALUES ('a')", COPY, "COMMIT", copied=refuse)
    wire.run("ROLLBACK")
    assert kept(wire) == 0


def test_an_error_is_the_drivers(wire: Wire) -> None:
    with pytest.raises(errors.DivisionByZero):
        wire.run("BEGIN", "SELECT 1/0", "COMMIT")


def test_it_takes_no_part_in_djangos_transactions() -> None:
    with transaction.atomic(), pytest.raises(RuntimeError):
        Wire(connection)
