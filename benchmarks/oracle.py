"""What a fleet's tenants should be billed, counted independently: no line of it is shared with the billing app.

Times are integers, in microseconds since 1970. Money is in integers of the currency's smallest unit. The paid seconds
of a hold are counted as the increments that fall due in a stretch of it, prices are exact fractions, and each line is
rounded once, half to even (which is what Python's ``round`` does to a fraction).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

SECOND = 1_000_000
DAY = 86_400 * SECOND
UNITS = {"USD": 100, "EUR": 100, "JPY": 1, "KRW": 1, "KWD": 1000, "TND": 1000}  # of the smallest money in one
FINAL = ("open", "paid", "uncollectible")

Span = tuple[int, int, int]  # hold, from, to


@dataclass
class Rate:
    """A price as it was recorded; ``tenant`` or ``plan`` makes it more specific."""

    id: int
    model: str
    tenant: int | None
    plan: str
    currency: str
    price: Fraction
    minimum: int
    increment: int
    valid_from: int
    recorded_at: int

    @property
    def strength(self) -> tuple[Any, ...]:
        """Of two rates, the greater is in force."""
        return self.tenant is not None, self.plan != "", self.valid_from, self.recorded_at, self.id


@dataclass
class Hold:
    """A tenant held a GPU; ``rate`` is the one in force at the start, or None."""

    id: int
    tenant: int
    gpu: int
    model: str
    start: int
    end: int | None
    rate: Rate | None


@dataclass
class Rule:
    """A service-level rule."""

    id: int
    tenant: int | None
    plan: str
    states: frozenset[str]
    longer: int
    percent: int
    basis: str
    since: int


@dataclass
class Fault:
    """A GPU was in a state; ``end`` None: it still is."""

    id: int
    gpu: int
    state: str
    start: int
    end: int | None


@dataclass
class Note:
    """A note; ``tag`` says which of its kind: a window, an amount's id, or (rule, fault)."""

    origin: str
    tag: Any
    kind: str
    amount: int
    status: str = "draft"
    percent: int = 100
    spans: list[Span] = field(default_factory=list)
    rates: tuple[int, ...] = ()
    settled: bool = False

    @property
    def signed(self) -> int:
        """What it adds to its invoice."""
        return self.amount if self.kind == "debit" else -self.amount


@dataclass
class Invoice:
    """An invoice with the stretches that it bills and its notes, oldest first."""

    id: int
    tenant: int
    currency: str
    spans: list[Span]
    total: int
    status: str = "draft"
    notes: list[Note] = field(default_factory=list)
    declined: set[int] = field(default_factory=set)

    def some(self, status: str, *origins: str) -> list[Note]:
        """Its notes of a status and of these origins, or of any."""
        return [note for note in self.notes if note.status == status and (not origins or note.origin in origins)]

    @property
    def left(self) -> int:
        """What can still be credited."""
        return self.total + sum(note.signed for note in self.some("issued"))

    @property
    def due(self) -> int:
        """What is to be paid now."""
        owed = sum(note.amount for note in self.some("issued") if note.kind == "debit" and not note.settled)
        if self.status == "open":
            return self.total - sum(note.amount for note in self.some("issued") if note.kind == "credit") + owed
        return owed if self.status == "paid" else 0


@dataclass
class Line:
    """Time of one model at one rate: microseconds held, seconds billed, smallest units of money."""

    held: int
    billed: int
    amount: int


def cut(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """The spans without what is taken of the same holds."""
    rest = list(spans)
    for hold, low, high in taken:
        kept: list[Span] = []
        for other, start, end in rest:
            if other != hold or high <= start or end <= low:
                kept.append((other, start, end))
            else:
                kept += [(other, *part) for part in ((start, low), (high, end)) if part[0] < part[1]]
        rest = kept
    return rest


def multiples(step: int, low: int, high: int) -> int:
    """How many multiples of ``step`` lie in ``[low, high)``."""
    return -(-high // step) + (-low // step) if high > low else 0


class Books:
    """Everything that happened, and what follows from it."""

    def __init__(self) -> None:
        self.currency: dict[int, str] = {}
        self.plan: dict[int, str] = {}
        self.rates: list[Rate] = []
        self.holds: dict[int, Hold] = {}
        self.invoices: dict[int, Invoice] = {}
        self.rules: list[Rule] = []
        self.faults: list[Fault] = []

    # Prices.

    def in_force(self, tenant: int, model: str, at: int) -> Rate | None:
        """The rate that is locked in by a start at this time."""
        known = [
            rate
            for rate in self.rates
            if rate.model == model
            and rate.valid_from <= at
            and rate.currency == self.currency[tenant]
            and rate.tenant in (None, tenant)
            and rate.plan in ("", self.plan[tenant])
        ]
        return max(known, key=lambda rate: rate.strength, default=None)

    def due_rate(self, invoice: Invoice, hold: Hold) -> Rate:
        """The rate that should have been locked in, by what is known now."""
        locked = self._locked(hold)
        known = [locked]
        for rate in self.rates:
            if rate.model != locked.model or rate.currency != invoice.currency or rate.valid_from > hold.start:
                continue
            if rate.tenant not in (None, hold.tenant) or rate.id in invoice.declined:
                continue
            late = not locked.plan and rate.plan == self.plan[hold.tenant] and rate.recorded_at > hold.start
            if rate.plan in ("", locked.plan) or late:
                known.append(rate)
        return max(known, key=lambda rate: rate.strength)

    def paid_seconds(self, span: Span, rate: Rate) -> int:
        """The increments that fall due in a stretch. Those of the minimum fall due when the hold begins, each later one
        when what was paid before it is used up."""
        hold, low, high = span
        start, step = self.holds[hold].start, rate.increment * SECOND
        at_once = -(-rate.minimum // rate.increment)
        later = multiples(step, max(low - start, at_once * step), high - start)
        return ((at_once if low == start else 0) + later) * rate.increment

    def money(self, seconds: int, rate: Rate, percent: int = 100) -> int:
        """A line's amount, rounded once."""
        return round(rate.price * seconds * percent * UNITS[rate.currency] / 360_000)

    def lines(self, spans: Iterable[Span], invoice: Invoice | None = None, percent: int = 100) -> dict[int, Line]:
        """The spans by rate: the locked ones, or those that are due on an invoice."""
        lines: dict[int, Line] = {}
        rates: dict[int, Rate] = {}
        for span in spans:
            hold = self.holds[span[0]]
            rate = self._locked(hold) if invoice is None else self.due_rate(invoice, hold)
            line = lines.setdefault(rate.id, Line(0, 0, 0))
            line.held += span[2] - span[1]
            line.billed += self.paid_seconds(span, rate)
            rates[rate.id] = rate
        for rate_id, line in lines.items():
            line.amount = self.money(line.billed, rates[rate_id], percent)
        return lines

    def worth(self, spans: Iterable[Span], invoice: Invoice, percent: int = 100) -> int:
        """What these spans of an invoice are due for."""
        return sum(line.amount for line in self.lines(spans, invoice, percent).values())

    @staticmethod
    def _locked(hold: Hold) -> Rate:
        if hold.rate is None:
            raise ValueError("time without a rate is never billed")
        return hold.rate

    # Invoices.

    def unbilled(self, tenant: int, start: int, end: int) -> list[Span]:
        """The tenant's priced time in the window that no invoice holds."""
        held = [
            (hold.id, max(hold.start, start), end if hold.end is None else min(hold.end, end))
            for hold in self.holds.values()
            if hold.tenant == tenant and hold.rate is not None
        ]
        mine = [one for one in self.invoices.values() if one.tenant == tenant and one.status != "void"]
        billed = [span for one in mine for span in one.spans]
        return cut([span for span in held if span[1] < span[2]], billed)

    def bill(self, number: int, tenant: int, spans: Sequence[Span]) -> Invoice:
        """A draft of these spans."""
        total = sum(line.amount for line in self.lines(spans).values())
        self.invoices[number] = Invoice(number, tenant, self.currency[tenant], list(spans), total)
        return self.invoices[number]

    def move(self, invoice: Invoice, status: str) -> None:
        """A legal move."""
        if status == "void":
            invoice.notes = [note for note in invoice.notes if note.status != "draft"]
        first, invoice.status = invoice.status == "draft", status
        if first and status == "open":
            self.refresh(invoice)

    def add_rate(self, rate: Rate) -> None:
        """Record a rate; a late one prices what had no price, and corrects what it touches."""
        self.rates.append(rate)
        for hold in self.holds.values():
            mine = rate.tenant in (None, hold.tenant) and rate.plan in ("", self.plan[hold.tenant])
            known = hold.model == rate.model and self.currency[hold.tenant] == rate.currency
            if hold.rate is None and mine and known and rate.valid_from <= hold.start < rate.recorded_at:
                hold.rate = rate
        for invoice in self.invoices.values():
            if invoice.status in FINAL and rate.valid_from < rate.recorded_at and self._touches(rate, invoice):
                self.refresh(invoice)

    def _touches(self, rate: Rate, invoice: Invoice) -> bool:
        if rate.currency != invoice.currency or rate.tenant not in (None, invoice.tenant):
            return False
        holds = [self.holds[span[0]] for span in invoice.spans]
        return any(
            self._locked(hold).model == rate.model
            and hold.start >= rate.valid_from
            and rate.plan in ("", self._locked(hold).plan, self.plan[invoice.tenant])
            for hold in holds
        )

    # Notes.

    def taken(self, invoice: Invoice, *, judged: bool) -> list[Span]:
        """Seconds that notes give back; ``judged``: with those that were declined under a rule."""
        return [
            span
            for note in invoice.notes
            if note.status in ("draft", "issued") or (judged and note.status == "declined" and note.origin == "rule")
            for span in note.spans
        ]

    def credit_seconds(self, invoice: Invoice, origin: str, tag: Any, spans: list[Span], percent: int) -> Note | None:
        """A draft that gives the spans back, of at most what is left; None when that is nothing."""
        amount = min(self.worth(spans, invoice, percent), invoice.left)
        if amount <= 0:
            return None
        invoice.notes.append(Note(origin, tag, "credit", amount, percent=percent, spans=spans))
        return invoice.notes[-1]

    def credit_window(self, invoice: Invoice, start: int, end: int) -> Note | None:
        """What is due for a window and not given back yet."""
        wanted = [(hold, max(low, start), min(high, end)) for hold, low, high in invoice.spans]
        spans = cut([span for span in wanted if span[1] < span[2]], self.taken(invoice, judged=False))
        return self.credit_seconds(invoice, "window", (start, end), spans, 100)

    def decide(self, invoice: Invoice, note: Note, status: str) -> None:
        """Issue or decline a draft."""
        note.status = status
        if status == "declined" and note.origin == "rate":
            invoice.declined |= set(note.rates)
        if invoice.status in FINAL:
            self.refresh(invoice)

    def refresh(self, invoice: Invoice) -> None:
        """Compute the drafts anew that follow from rates."""
        for note in invoice.some("draft", "window", "rule"):
            note.amount = min(self.worth(note.spans, invoice, note.percent), invoice.left)
        invoice.notes = [note for note in invoice.notes if note.status != "draft" or note.amount > 0]
        proposal, drafts = self._proposal(invoice), invoice.some("draft", "rate")
        declined = invoice.some("declined", "rate")[-1:]
        if proposal and drafts and _said(drafts[0]) == _said(proposal):
            return
        invoice.notes = [note for note in invoice.notes if note not in drafts]
        if proposal and [_said(note) for note in declined] != [_said(proposal)]:
            invoice.notes.append(proposal)

    def _proposal(self, invoice: Invoice) -> Note | None:
        issued, credits_ = invoice.some("issued", "rate"), invoice.some("issued", "window", "rule")
        late = {
            rate.id
            for hold in (self.holds[span[0]] for span in invoice.spans)
            if (rate := self.due_rate(invoice, hold)) is not hold.rate
        }
        if not late and not issued and not credits_:
            return None
        should = self.worth(invoice.spans, invoice) - sum(self.worth(n.spans, invoice, n.percent) for n in credits_)
        gap = should - invoice.total - sum(note.signed for note in (*issued, *credits_))
        rates = tuple(sorted(late - {rate for note in issued for rate in note.rates}))
        amount = gap if gap > 0 else min(-gap, invoice.left)
        return Note("rate", None, "debit" if gap > 0 else "credit", amount, rates=rates) if amount > 0 else None

    def raise_credits(self, now: int) -> None:
        """Every rule against every fault on every finalised invoice."""
        for invoice in self.invoices.values():
            for rule in sorted(self.rules, key=lambda one: (one.tenant is None, one.plan == "", -one.percent, one.id)):
                for fault in self.faults:
                    if invoice.status in FINAL and self._applies(rule, fault, invoice, now):
                        spans = cut(self._credited(rule, fault, invoice, now), self.taken(invoice, judged=True))
                        self.credit_seconds(invoice, "rule", (rule.id, fault.id), spans, rule.percent)

    def _applies(self, rule: Rule, fault: Fault, invoice: Invoice, now: int) -> bool:
        judged = any(note.tag == (rule.id, fault.id) for note in invoice.notes if note.origin == "rule")
        concerned = rule.tenant in (None, invoice.tenant) and rule.plan in ("", self.plan[invoice.tenant])
        lasted = (now if fault.end is None else fault.end) - fault.start
        return (
            not judged
            and concerned
            and fault.state in rule.states
            and fault.start >= rule.since
            and lasted > rule.longer * SECOND
        )

    def _credited(self, rule: Rule, fault: Fault, invoice: Invoice, now: int) -> list[Span]:
        spans = []
        for hold_id, low, high in invoice.spans:
            hold = self.holds[hold_id]
            began = max(fault.start, hold.start)
            ended = min(end for end in (fault.end, hold.end, now) if end is not None)
            if hold.gpu != fault.gpu or began >= ended:
                continue
            first, last = {
                "overlap": (began, ended),
                "allocation": (low, high),
                "day": (began // DAY * DAY, ((ended - 1) // DAY + 1) * DAY),
            }[rule.basis]
            if max(low, first) < min(high, last):
                spans.append((hold_id, max(low, first), min(high, last)))
        return spans


def _said(note: Note) -> tuple[Any, ...]:
    return note.kind, note.amount, note.rates
