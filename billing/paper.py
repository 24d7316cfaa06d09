"""An invoice as a PDF that a customer would pay. The same invoice makes the same bytes."""

import io
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.http import HttpResponse
from django.utils.text import slugify
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, KeepTogether, Paragraph, Spacer, Table, TableStyle

from billing.models import CreditNote, CreditNoteStatus, Invoice, InvoiceLine, InvoiceStatus, NoteKind
from billing.pricing import tax_within
from billing.queries import InvoiceReport, number_of, particulars_of
from billing.serializers import grouped_money
from gpufleet.common.fonts import BOLD
from gpufleet.common.papers import (
    NAME,
    RIGHT,
    RULED,
    SMALL,
    SMALL_RIGHT,
    WIDTH,
    NumberedPages,
    document,
    paragraph,
)

STRONG = ParagraphStyle("strong", parent=RIGHT, fontName=BOLD)
TOTAL = ParagraphStyle("total", parent=RIGHT, fontName=BOLD, fontSize=11, leading=16)
TITLE = ParagraphStyle("title", parent=RIGHT, fontName=BOLD, fontSize=20, leading=26)
PLAIN = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
    ]
)
LINE_WIDTHS = [WIDTH * share for share in (0.34, 0.24, 0.13, 0.14, 0.15)]


def invoice_pdf(report: InvoiceReport) -> bytes:
    """The invoice with its lines, its issued notes and what is due. A draft and a void invoice are marked as such."""
    invoice, target = report.invoice, io.BytesIO()
    paper = document(target, title=_title(invoice), author=_particulars(invoice)["seller"]["name"])
    paper.build(_story(report), canvasmaker=lambda *args, **options: _Pages(invoice, *args, **options))
    return target.getvalue()


def pdf_response(report: InvoiceReport) -> HttpResponse:
    """The PDF as a file to keep."""
    name = slugify(_title(report.invoice))
    headers = {"Content-Disposition": f'attachment; filename="{name}.pdf"'}
    return HttpResponse(invoice_pdf(report), content_type="application/pdf", headers=headers)


def _title(invoice: Invoice) -> str:
    return f"Draft {invoice.pk}" if invoice.number is None else f"Invoice {number_of(invoice)}"


def _particulars(invoice: Invoice) -> dict[str, Any]:
    """As they were when it was finalised; of a draft as they are now."""
    kept: dict[str, Any] = invoice.particulars
    return kept or particulars_of(invoice.tenant)


def _story(report: InvoiceReport) -> list[Flowable]:
    invoice = report.invoice
    particulars = _particulars(invoice)
    notes = invoice.credit_notes.filter(status=CreditNoteStatus.ISSUED).order_by("number")
    return [
        _head(invoice, particulars["seller"]),
        Spacer(0, 8 * mm),
        *_buyer(particulars["buyer"]),
        Spacer(0, 8 * mm),
        _lines(invoice.lines.order_by("pk"), invoice.currency),
        Spacer(0, 4 * mm),
        KeepTogether([_totals(report, notes, particulars["tax"]), Spacer(0, 8 * mm), *_closing(invoice, particulars)]),
    ]


def _head(invoice: Invoice, seller: dict[str, str]) -> Table:
    left = [paragraph(seller["name"], NAME), *_each_line(seller["address"]), *_each_line(seller["email"])]
    left += _tax_id(seller)
    right = [paragraph(_title(invoice), TITLE), *(paragraph(fact, RIGHT) for fact in _facts(invoice))]
    return Table([[left, right]], colWidths=[WIDTH * 0.45, WIDTH * 0.55], style=PLAIN, splitInRow=1)


def _facts(invoice: Invoice) -> list[str]:
    settled = {InvoiceStatus.PAID: "Paid", InvoiceStatus.VOID: "Void since"}.get(InvoiceStatus(invoice.status), "")
    dates = [("Issued", invoice.finalised_at), ("Due", invoice.due_at), (settled, invoice.settled_at)]
    facts = [f"{name}: {_day(moment)}" for name, moment in dates if name and moment is not None]
    return [*facts, f"Period: {_days(invoice.period)} (UTC)"]


def _buyer(buyer: dict[str, str]) -> list[Flowable]:
    # Invoices that were finalised before tenants had an address have none in their particulars.
    lines = [*_each_line(buyer.get("address", "")), *_each_line(buyer["email"]), *_tax_id(buyer)]
    return [paragraph("Billed to", SMALL), paragraph(buyer["name"], NAME), *lines]


def _tax_id(party: dict[str, str]) -> list[Flowable]:
    tax_id = party.get("tax_id", "")
    return [paragraph(f"Tax ID: {tax_id}")] if tax_id else []


def _lines(lines: Iterable[InvoiceLine], currency: str) -> Table:
    head = ["GPU time", "Days (UTC)", "GPU-hours", f"{currency} per hour", f"Amount, {currency}"]
    rows = [[paragraph(text, SMALL) for text in head[:2]] + [paragraph(text, SMALL_RIGHT) for text in head[2:]]]
    rows += [_line(line, currency) for line in lines]
    return Table(rows, colWidths=LINE_WIDTHS, repeatRows=1, style=RULED)


def _line(line: InvoiceLine, currency: str) -> list[Paragraph]:
    return [
        paragraph(line.gpu_model),
        paragraph(_days(line.period)),
        paragraph(f"{line.billed_seconds / Decimal(3600):,.4f}", RIGHT),
        paragraph(_price(line.price_per_gpu_hour), RIGHT),
        paragraph(grouped_money(line.amount, currency), RIGHT),
    ]


def _totals(report: InvoiceReport, notes: Iterable[CreditNote], tax: dict[str, str]) -> Table:
    invoice, currency = report.invoice, report.invoice.currency
    percent = Decimal(tax["percent"])
    contained = tax_within(invoice.total, percent, currency)
    rows = [
        ("Net", grouped_money(invoice.total - contained, currency), RIGHT),
        (f"{tax['label']}, {percent.normalize():f} %", grouped_money(contained, currency), RIGHT),
        ("Total", grouped_money(invoice.total, currency), STRONG),
    ]
    for note in notes:
        sign = "+" if note.kind == NoteKind.DEBIT else "−"
        label = f"{note.get_kind_display()} {note.number}, {_day(note.decided_at)}: {note.reason}"
        rows.append((label, f"{sign}{grouped_money(note.amount, currency)}", RIGHT))
    if invoice.status != InvoiceStatus.DRAFT:
        label = "Due" if invoice.status == InvoiceStatus.OPEN else f"Due ({invoice.status})"
        rows.append((label, f"{grouped_money(report.amount_due, currency)} {currency}", TOTAL))
    cells = [[paragraph(label, style), paragraph(amount, style)] for label, amount, style in rows]
    return Table(cells, colWidths=[WIDTH * 0.75, WIDTH * 0.25], style=RULED)


def _closing(invoice: Invoice, particulars: dict[str, Any]) -> list[Flowable]:
    paid_how = particulars["seller"]["payment"] if invoice.status == InvoiceStatus.OPEN else ""
    rounding = "GPU-hours are billed seconds / 3600. Each line is rounded once, half-even, to the smallest unit."
    proof = f" Proof of every second, SHA-256: {invoice.proof_sha256}" if invoice.proof_sha256 else ""
    return [
        *_each_line(particulars["tax"]["note"]),
        *_each_line(paid_how),
        Spacer(0, 4 * mm),
        paragraph(rounding + proof, SMALL),
    ]


def _each_line(text: str) -> list[Flowable]:
    """Settings separate lines by "|", people by new lines."""
    lines = [part.strip() for line in text.splitlines() for part in line.split("|")]
    return [paragraph(line) for line in lines if line]


def _price(price: Decimal) -> str:
    """Two decimals, and more where it has them."""
    return f"{price:.2f}" if price == round(price, 2) else f"{price.normalize():f}"


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"


def _days(period: Any) -> str:
    """From the first to the last day that the half-open range touches."""
    first, last = _day(period.lower), _day(period.upper - timedelta(microseconds=1))
    return first if first == last else f"{first} – {last}"


class _Pages(NumberedPages):
    """Pages that say what a draft or a void invoice is."""

    def __init__(self, invoice: Invoice, *arguments: Any, **options: Any) -> None:
        super().__init__(_title(invoice), *arguments, **options)
        self._invoice = invoice

    def furnish(self, number: int, count: int) -> None:
        """The foot of a page, and across it what the invoice is."""
        super().furnish(number, count)
        if self._invoice.status in (InvoiceStatus.DRAFT, InvoiceStatus.VOID):
            self._stamp(self._invoice.status.upper())

    def _stamp(self, word: str) -> None:
        self.saveState()
        self.setFont(BOLD, 110)
        self.setFillColor(colors.HexColor("#c0392b"), alpha=0.12)
        self.translate(A4[0] / 2, A4[1] / 2)
        self.rotate(50)
        self.drawCentredString(0, -40, word)
        self.restoreState()
