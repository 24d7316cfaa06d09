"""What billing made of a simulated world, compared with the oracle's books."""

from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks import oracle
from billing.models import BilledRange, CreditNote, Invoice
from billing.queries import describe_invoices

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """An instant as the oracle counts it."""
    return (at - EPOCH) // MICROSECOND


def instant(at: int) -> datetime:
    """The other way round."""
    return EPOCH + at * MICROSECOND


class Comparison:
    """``differences`` are sentences; ``counts`` says what there was of each kind."""

    def __init__(self, number: int, now: datetime) -> None:
        self.number, self.now = number, now
        self.books = oracle.Books()
        self.differences: list[str] = []
        self.counts = dict.fromkeys(("invoices", "lines", "notes", "rates", "kills", "refusals"), 0)

    def compare_lines(self, row: Invoice, invoice: oracle.Invoice) -> None:
        """Each line's seconds and amount, the total, and the very stretches of time behind it."""
        units = oracle.UNITS[invoice.currency]
        billed = {
            line.rate_id: (int(line.held_seconds * oracle.SECOND), line.billed_seconds, line.amount * units)
            for line in row.lines.all()
        }
        expected = {
            rate: (line.held, line.billed, line.amount) for rate, line in self.books.lines(invoice.spans).items()
        }
        self.counts["lines"] += len(billed)
        self.same(f"lines of invoice {row.pk}", billed, expected)
        self.same(f"total of invoice {row.pk}", row.total * units, invoice.total)
        ranges = BilledRange.objects.filter(line__invoice=row, released_at__isnull=row.status != "void")
        spans = {(one.allocation_id, micros(one.during.lower), micros(one.during.upper)) for one in ranges}
        self.same(f"time on invoice {row.pk}", spans, set(invoice.spans))

    def compare_notes(self, invoice: oracle.Invoice) -> None:
        """Every note that was not withdrawn: what it is about, its kind, status and amount."""
        units = oracle.UNITS[invoice.currency]
        rows = CreditNote.objects.filter(invoice_id=invoice.id).exclude(status="withdrawn")
        names = {"service_level": "rule"}
        noted = sorted(
            (names.get(row.origin, row.origin), row.kind, row.status, int(row.amount * units)) for row in rows
        )
        expected = sorted((note.origin, note.kind, note.status, note.amount) for note in invoice.notes)
        self.same(f"notes of invoice {invoice.id}", noted, expected)

    def compare_balance(self, row: Invoice, invoice: oracle.Invoice) -> None:
        """Status, what the invoice comes to with its notes, and what is to be paid."""
        units = oracle.UNITS[invoice.currency]
        (report,) = describe_invoices([row])
        self.counts["notes"] += len(invoice.notes)
        shown = (row.status, report.balance * units, report.amount_due * units)
        self.same(f"balance of invoice {row.pk}", shown, (invoice.status, invoice.left, invoice.due))

    def same(self, what: str, found: Any, expected: Any) -> None:
        """Note a difference, if it is one."""
        if found != expected:
            self.differ(f"{what}: billing says {found}, the oracle says {expected}")

    def differ(self, sentence: str) -> None:
        """Note where and when something was not as it should be."""
        self.differences.append(f"world {self.number}, {self.now:%Y-%m-%d %H:%M:%S}: {sentence}")
