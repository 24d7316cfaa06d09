"""The papers of an invoice in the console: the PDF, and the proof as a file and checked on the screen."""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.text import slugify
from unfold.decorators import display

from billing.models import Invoice
from billing.paper import pdf_response
from billing.proofs import proof_of
from billing.queries import describe_invoices
from billing.serializers import ProofSerializer, proof_csv
from gpufleet.common.admin import ServiceAdmin

Page = Callable[[HttpRequest, int], HttpResponse]


def _pdf(invoice: Invoice) -> HttpResponse:
    return pdf_response(describe_invoices([invoice])[0])


def _csv(invoice: Invoice) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{slugify(str(invoice))}-proof.csv"'}
    return HttpResponse(proof_csv(proof_of(invoice)), content_type="text/csv; charset=utf-8", headers=headers)


def _json(invoice: Invoice) -> HttpResponse:
    return JsonResponse(ProofSerializer(proof_of(invoice)).data)


MARKED = '<span class="font-semibold px-2 py-1 rounded-default {}">{}</span> {}'
GREEN = "bg-green-100 text-green-700 dark:bg-green-500/20 dark:text-green-400"
RED = "bg-red-100 text-red-700 dark:bg-red-500/20 dark:text-red-400"


def _verdict(invoice: Invoice) -> HttpResponse:
    """Whether the ledger still says what the invoice says, as a part of its page."""
    proof = proof_of(invoice)
    if proof.matches is None:
        return HttpResponse(format_html("Not finalised. The ledger says {} now.", proof.sha256))
    if proof.matches:
        said = f"the ledger says now what it said when the invoice was finalised ({proof.sha256})."
        return HttpResponse(format_html(MARKED, GREEN, "Verified", said))
    said = f"finalised with {invoice.proof_sha256}, and the ledger says {proof.sha256} now."
    return HttpResponse(format_html(MARKED, RED, "MISMATCH", said))


PAPERS: dict[str, Callable[[Invoice], HttpResponse]] = {"pdf": _pdf, "proof.csv": _csv, "proof.json": _json}
PARTS = {**PAPERS, "proof": _verdict}


class PapersAdmin(ServiceAdmin):
    """For the invoices' admin: pages for the papers, and fields that lead to them."""

    paper_fields = ["shown_papers", "shown_proof"]

    def get_urls(self) -> list[Any]:
        """The papers before the rest, whose last pattern takes everything."""
        pages = [path(f"<int:pk>/{name}", self._page(make), name=_page_name(name)) for name, make in PARTS.items()]
        return [*pages, *super().get_urls()]

    @display(description="Papers")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_papers(self, invoice: Invoice) -> str:
        """Links to each."""
        links = [(reverse(f"admin:{_page_name(name)}", args=[invoice.pk]), name) for name in PAPERS]
        (pdf, csv, json) = (format_html('<a class="underline" href="{}">{}</a>', *link) for link in links)
        return format_html("{} · {} · {}", pdf, csv, json)

    @display(description="Proof")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_proof(self, invoice: Invoice) -> str:
        """Recomputed from the ledger once the page is there: that of a large invoice takes a second or two."""
        address = reverse(f"admin:{_page_name('proof')}", args=[invoice.pk])
        return format_html('<span hx-get="{}" hx-trigger="load">Reading the ledger…</span>', address)

    def _page(self, make: Callable[[Invoice], HttpResponse]) -> Page:
        def page(request: HttpRequest, pk: int) -> HttpResponse:
            invoice = get_object_or_404(Invoice, pk=pk)
            if not self.has_view_permission(request, invoice):
                raise PermissionDenied
            return make(invoice)

        view: Page = self.admin_site.admin_view(page)
        return view


def _page_name(paper: str) -> str:
    return f"billing_invoice_{paper.replace('.', '_')}"
