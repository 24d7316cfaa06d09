"""Moving invoices in the console: what a move means, what it is about, and why, are on a page before it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final
from uuid import uuid4

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from unfold.admin import TabularInline
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import services
from billing.models import Invoice, InvoiceEvent, InvoiceStatus
from billing.serializers import grouped_money
from gpufleet.common import bulk
from gpufleet.common.admin import ServiceAdmin, begin, counted
from gpufleet.common.query import LARGEST_ID

SEND = "send"
# What a person reads before it is done, and how the sentence of what was done ends; the first word is on the buttons.
MOVES: Final = {
    InvoiceStatus.OPEN.value: (
        "Finalise",
        "Each gets the next number, its rows freeze, its proof is hashed, and it is sent through Stripe if it can be. "
        "What is wrong after that is corrected by credit notes.",
        "now open",
    ),
    SEND: (
        "Send through Stripe",
        "Stripe makes each an invoice of its own and mails it to the tenant's contact. What is on its way stays so; "
        "what Stripe has refused is tried again.",
        "on the way to Stripe",
    ),
    InvoiceStatus.PAID.value: ("Mark as paid", "The money has come. A paid invoice moves no more.", "now paid"),
    InvoiceStatus.UNCOLLECTIBLE.value: (
        "Mark as uncollectible",
        "The money will not come. It may still be paid or voided.",
        "now uncollectible",
    ),
    InvoiceStatus.VOID.value: (
        "Void",
        "Nothing is owed, for good. Its seconds may be billed again.",
        "now void",
    ),
}
NEED_A_REASON: Final = (InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID)
# How they are called in the audit log.
NAMES: Final = {InvoiceStatus.OPEN.value: "finalise", InvoiceStatus.PAID.value: "mark_paid"} | {
    InvoiceStatus.UNCOLLECTIBLE.value: "mark_uncollectible"
}
SHOWN_INVOICES: Final = 100


def _work(to: str) -> str:
    return f"billing.{NAMES.get(to, to)}"


def _moving(to: str) -> Callable[[bulk.Doing], Invoice]:
    def move(step: bulk.Doing) -> Invoice:
        return services.move_invoice(
            invoice_id=step.object_id, to=to, actor=step.actor, now=step.now, reason=step.reason
        )

    return move


def _send(step: bulk.Doing) -> Invoice:
    return services.send_invoice(invoice_id=step.object_id, actor=step.actor, now=step.now)


def _seen(invoice: Invoice) -> dict[str, Any]:
    return {"status": invoice.status, "number": invoice.number}


def _seen_sending(invoice: Invoice) -> dict[str, Any]:
    return {"sending": services.sending_in_words(invoice)}


for _to, (_words, _, _outcome) in MOVES.items():
    bulk.register(
        bulk.Work(
            name=_work(_to),
            words=_words,
            outcome=_outcome,
            model=Invoice,
            permission="billing.change_invoice",
            do=_send if _to == SEND else _moving(_to),
            seen=_seen_sending if _to == SEND else _seen,
        )
    )


class MoveForm(forms.Form):
    """Which invoices, and why."""

    ids = forms.RegexField(r"^\d{1,19}(,\d{1,19})*$", widget=forms.HiddenInput)
    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextInputWidget)
    token = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, to: str, **kwargs: Any) -> None:
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
    hide_title = True
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

    def ask_to_move(self, request: HttpRequest, invoice_ids: Collection[int], to: str) -> HttpResponse:
        """The page that asks."""
        initial = {"ids": ",".join(map(str, sorted(invoice_ids))), "token": uuid4()}
        return self._ask_why(request, MoveForm(to=to, initial=initial), invoice_ids, to)

    def _move_page(self, request: HttpRequest, to: str) -> HttpResponse:
        if not self.has_move_permission(request):
            raise PermissionDenied
        if to not in MOVES:
            raise Http404
        form = MoveForm(request.POST or request.GET, to=to)
        form.is_valid()
        ids: list[int] = form.cleaned_data.get("ids", [])
        if not ids:
            raise Http404
        if request.method != "POST":
            return self.ask_to_move(request, ids, to)
        if not form.is_valid():
            return self._ask_why(request, form, ids, to)
        return self._move(request, ids, to, form.cleaned_data)

    def _move(self, request: HttpRequest, ids: Collection[int], to: str, said: Mapping[str, Any]) -> HttpResponse:
        """Each of them, in steps whose page says how far they have come."""
        invoices = Invoice.objects.filter(pk__in=ids).select_related("tenant")
        names = {invoice.pk: f"{invoice}, {invoice.tenant.name}" for invoice in invoices}
        rows = {pk: bulk.Row(names.get(pk, f"Invoice {pk}")) for pk in ids}
        return begin(request, work=_work(to), token=said["token"], rows=rows, reason=said["reason"])

    def _ask_why(self, request: HttpRequest, form: MoveForm, ids: Collection[int], to: str) -> HttpResponse:
        word, meaning, _ = MOVES[to]
        invoices = Invoice.objects.filter(pk__in=ids).select_related("tenant").order_by("pk")
        shown = invoices[:SHOWN_INVOICES]
        more = [f"The first {SHOWN_INVOICES} of them:"] if len(ids) > SHOWN_INVOICES else []
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": word,
            "paragraphs": [f"{counted(len(ids), 'invoice')}. {meaning}", *more],
            "table": {"headers": ["Invoice", "Tenant", "Status", "Total"], "rows": [_row(one) for one in shown]},
            "form": form,
            "action": reverse("admin:billing_invoice_move", args=[to]),
            "button": word,
            "variant": "danger" if to in NEED_A_REASON else "primary",
            "back": reverse("admin:billing_invoice_changelist"),
            "back_label": "No, back to the list",
        }
        return TemplateResponse(request, "admin/billing/invoice/form.html", context)


def _row(invoice: Invoice) -> list[str]:
    link = format_html(
        '<a class="underline" href="{}">{}</a>', reverse("admin:billing_invoice_change", args=[invoice.pk]), invoice
    )
    total = f"{grouped_money(invoice.total, invoice.currency)} {invoice.currency}"
    return [link, invoice.tenant.name, invoice.get_status_display(), total]
