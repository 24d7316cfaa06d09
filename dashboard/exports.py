"""Tables of figures as files: CSV for a spreadsheet, PDF for whoever wants to read or sign it."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.http import HttpResponse

from gpufleet.common.papers import Sheet, report_pdf

Cell = str | Decimal


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page, which is also a file. ``total``: the sum of the rows, which a spreadsheet makes for itself.
    ``said``: what it shows, for the head of a paper. ``links``: of each row, the page that its first cell leads to."""

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str
    total: Sequence[Cell] = ()
    said: str = ""
    links: Sequence[str] = ()

    @property
    def linked_rows(self) -> list[tuple[str, Sequence[Cell]]]:
        """Each row after its link, which may be none."""
        return list(zip(self.links or [""] * len(self.rows), self.rows, strict=True))


def as_csv(table: Table, stem: str) -> HttpResponse:
    """The table with its figures as they are."""
    answer = _file(f"{table.name}-{stem}.csv", "text/csv; charset=utf-8")
    write: Callable[[Iterable[Any]], Any] = csv.writer(answer).writerow
    for row in (table.headers, *table.rows):
        write([_harmless(cell) for cell in row])
    return answer


def as_pdf(title: str, facts: Sequence[str], tables: Sequence[Table], name: str) -> HttpResponse:
    """The tables below one title, their figures with thousands apart."""
    sheets = [Sheet(table.title, table.headers, _all_rows(table), table.empty) for table in tables]
    answer = _file(f"{name}.pdf", "application/pdf")
    answer.write(report_pdf(title, facts, sheets, author=settings.COMPANY_NAME))
    return answer


def _file(name: str, content_type: str) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(content_type=content_type, headers=headers)


def _all_rows(table: Table) -> list[list[str]]:
    return [_shown(row) for row in (*table.rows, *([table.total] if table.total else []))]


def _shown(row: Sequence[Cell]) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, Decimal) else cell for cell in row]


def _harmless(cell: Cell) -> str:
    """A spreadsheet must not take a tenant's name for a formula."""
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
