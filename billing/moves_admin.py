"""Moving invoices in the console: what a move means, what it is about, and why, are on a page before it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.admin import TabularInline
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import services
from billing.models import Invoice, InvoiceEvent, InvoiceStatus
from billing.serializers import grouped_money
from gpufleet.common.admin import ServiceAdmin, actor_of, counted, report
from gpufleet.common.query import LARGEST_ID

# What a person reads before it is done; the first word is on the buttons.
MOVES = {
    InvoiceStatus.OPEN: (
        "Finalise",
        "Each gets the next number, its rows freeze, its proof is hashed, and it is sent through Stripe if it can be. "
        "What is wrong after that is corrected by credit notes.",
    ),
    InvoiceStatus.PAID: ("Mark as paid", "The money has come. A paid invoice moves no more."),
    InvoiceStatus.UNCOLLECTIBLE: ("Mark as uncollectible", "The money will not come. It may still be paid or voided."),
    InvoiceStatus.VOID: ("Void", "Nothing is owed, for good. Its seconds may be billed again."),
}
# So many in one request; a page between two requests says how far it has come.
AT_ONCE = 10
NEED_A_REASON = (InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID)


class MoveForm(forms.Form):
    """Which invoices, and why."""

    ids = forms.RegexField(r"^\d{1,19}(,\d{1,19})*$", widget=forms.HiddenInput)
    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextInputWidget)
    # Of a move that is under way: how many it is about in all, and how many are moved.
    total = forms.IntegerField(min_value=0, required=False, widget=forms.HiddenInput)
    moved = forms.IntegerField(min_value=0, required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, to: InvoiceStatus, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = to in NEED_A_REASON

    def clean_ids(self) -> list[int]:
        """Those that an invoice can have."""
        ids = map(int, self.cleaned_data["ids"].split(","))
        return [invoice_id for invoice_id in ids if invoice_id <= LARGEST_ID]


class EventInline(TabularInline):  # type: ignore[misc]  # unfold is untyped
    """The moves that were made."""

    model = InvoiceEvent
    fields = ["at", "from_status", "to_status", "actor", "reason"]
    readonly_fields = fields
    extra = 0
    can_delete = False
    verbose_name_plural = "moves"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: a move is made on its page."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: what happened has happened."""
        return False


class MovesAdmin(ServiceAdmin):
    """For the invoices' admin: a page for each move, which actions and buttons lead to."""

    def has_move_permission(self, request: HttpRequest) -> bool:
        """Whoever may change invoices may move them."""
        return request.user.has_perm("billing.change_invoice")

    def get_urls(self) -> list[Any]:
        """The page before the rest, whose last pattern takes everything."""
        page = self.admin_site.admin_view(self._move_page)
        return [path("move/<slug:to>", page, name="billing_invoice_move"), *super().get_urls()]

    @display(description="Next")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_moves(self, invoice: Invoice) -> str:
        """A link to each legal move."""
        legal = [InvoiceStatus(to) for to in services.INVOICE_MOVES[invoice.status]]
        links = [(reverse("admin:billing_invoice_move", args=[to]), invoice.pk, MOVES[to][0]) for to in legal]
        if not links:
            return "Nothing: it moves no more."
        return format_html_join(" · ", '<a class="underline" href="{}?ids={}">{}</a>', links)

    def ask_to_move(self, request: HttpRequest, invoice_ids: Collection[int], to: InvoiceStatus) -> HttpResponse:
        """The page that asks."""
        ids = ",".join(map(str, sorted(invoice_ids)))
        return self._ask_why(request, MoveForm(to=to, initial={"ids": ids}), invoice_ids, to)

    def _move_page(self, request: HttpRequest, to: str) -> HttpResponse:
        if not self.has_move_permission(request):
            raise PermissionDenied
        if to not in MOVES:
            raise Http404
        status = InvoiceStatus(to)
        form = MoveForm(request.POST or request.GET, to=status)
        form.is_valid()
        ids: list[int] = form.cleaned_data.get("ids", [])
        if not ids:
            raise Http404
        if request.method != "POST":
            return self.ask_to_move(request, ids, status)
        if not form.is_valid():
            return self._ask_why(request, form, ids, status)
        return self._move(request, ids, status, form.cleaned_data)

    def _move(
        self, request: HttpRequest, ids: Sequence[int], to: InvoiceStatus, said: Mapping[str, Any]
    ) -> HttpResponse:
        """Some of them; what is left is for the next request, which the page of the progress makes."""
        some, rest = ids[:AT_ONCE], ids[AT_ONCE:]
        outcome = services.move_invoices(
            invoice_ids=some, to=to, actor=actor_of(request), now=timezone.now(), reason=said["reason"]
        )
        moved, total = (said["moved"] or 0) + len(outcome.invoices), said["total"] or len(ids)
        if rest:
            report(request, "", outcome.refusals.values())
            left = {"ids": ",".join(map(str, rest)), "reason": said["reason"], "total": total, "moved": moved}
            return self._progress(request, to, left, done=total - len(rest))
        report(request, f"{moved} of {counted(total, 'invoice')} now {to.label.lower()}.", outcome.refusals.values())
        if moved == total == 1:
            return _go(request, reverse("admin:billing_invoice_change", args=[outcome.invoices[0].pk]))
        return _go(request, reverse("admin:billing_invoice_changelist"))

    def _progress(self, request: HttpRequest, to: InvoiceStatus, left: dict[str, Any], *, done: int) -> HttpResponse:
        context = {
            "word": MOVES[to][0],
            "action": reverse("admin:billing_invoice_move", args=[to]),
            "left": left,
            "done": done,
            "total": left["total"],
        }
        if "HX-Request" in request.headers:
            return TemplateResponse(request, "admin/billing/invoice/progress.html", context)
        page = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": context["word"],
            "progress": context,
        }
        return TemplateResponse(request, "admin/billing/invoice/form.html", page)

    def _ask_why(self, request: HttpRequest, form: MoveForm, ids: Collection[int], to: InvoiceStatus) -> HttpResponse:
        word, meaning = MOVES[to]
        invoices = Invoice.objects.filter(pk__in=ids).select_related("tenant").order_by("pk")
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": word,
            "paragraphs": [meaning],
            "table": {"headers": ["Invoice", "Tenant", "Status", "Total"], "rows": [_row(one) for one in invoices]},
            "form": form,
            "action": reverse("admin:billing_invoice_move", args=[to]),
            "button": word,
            "variant": "danger" if to in NEED_A_REASON else "primary",
            "back": reverse("admin:billing_invoice_changelist"),
            "back_label": "No, back to the list",
        }
        return TemplateResponse(request, "admin/billing/invoice/form.html", context)


def _go(request: HttpRequest, address: str) -> HttpResponse:
    """To another page, also out of a part of this one."""
    if "HX-Request" in request.headers:
        return HttpResponse(status=204, headers={"HX-Redirect": address})
    return redirect(address)


def _row(invoice: Invoice) -> list[str]:
    link = format_html(
        '<a class="underline" href="{}">{}</a>', reverse("admin:billing_invoice_change", args=[invoice.pk]), invoice
    )
    total = f"{grouped_money(invoice.total, invoice.currency)} {invoice.currency}"
    return [link, invoice.tenant.name, invoice.get_status_display(), total]
