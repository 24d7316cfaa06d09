"""Shapes of rates and invoices on the wire. Money is a decimal string with its currency beside it."""

import csv
import io
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing import services
from billing.credit_serializers import CreditNoteSerializer
from billing.figures import Figures, Summary
from billing.ledger import MeteredLine
from billing.models import InvoiceStatus
from billing.proofs import Proof
from billing.queries import InvoiceReport, Usage, Used
from gpufleet.common.currencies import minor_unit
from gpufleet.common.serializers import IdField, InstantField, StrictSerializer
from tenants.models import PlanTier

# Where an invoice can be moved; nothing becomes a draft again.
INVOICE_MOVES = [choice for choice in InvoiceStatus.choices if choice[0] != InvoiceStatus.DRAFT]
# What begins a formula in spreadsheets, by OWASP's page on CSV injection; some take the wide forms, too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class RateInputSerializer(StrictSerializer):
    """A new rate. ``plan_tier`` or ``tenant_id`` makes it more specific than the list price."""

    gpu_model = serializers.CharField(max_length=100, help_text="Exactly as the GPUs report it.")
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6, min_value=0)
    currency = serializers.CharField(
        min_length=3, max_length=3, required=False, help_text="ISO 4217. Default: the tenant's, or USD."
    )
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, required=False)
    tenant_id = IdField(required=False, allow_null=True)
    minimum_seconds = serializers.IntegerField(min_value=0, max_value=31 * 86_400, required=False)
    increment_seconds = serializers.IntegerField(min_value=1, max_value=31 * 86_400, required=False)
    effective_from = InstantField(source="valid_from", required=False, help_text="Default: now.")
    reason = serializers.CharField(max_length=500, allow_blank=True, required=False)


class RateSerializer(serializers.Serializer[Any]):
    """A rate as it is shown."""

    id = serializers.IntegerField(source="pk")
    gpu_model = serializers.CharField()
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6)
    currency = serializers.CharField(help_text="ISO 4217.")
    plan_tier = serializers.ChoiceField(choices=PlanTier.choices, allow_blank=True, help_text="Empty: of every plan.")
    tenant_id = serializers.IntegerField(allow_null=True, help_text="Null: of every tenant.")
    minimum_seconds = serializers.IntegerField()
    increment_seconds = serializers.IntegerField()
    effective_from = serializers.DateTimeField(source="valid_from")
    recorded_at = serializers.DateTimeField()
    recorded_by = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)


def money(amount: Decimal, currency: str) -> str:
    """An amount as the API shows it: a decimal string with exactly the decimals of its currency."""
    return str(amount.quantize(minor_unit(currency)))


def grouped_money(amount: Decimal, currency: str) -> str:
    """An amount as people read it: with the decimals of its currency, in groups of thousands."""
    return f"{Decimal(money(amount, currency)):,}"


class InvoiceInputSerializer(StrictSerializer):
    """Whose time to bill."""

    tenant_id = IdField()


class InvoiceStatusInputSerializer(StrictSerializer):
    """Where the invoice goes, and why. Only legal moves are made."""

    status = serializers.ChoiceField(choices=INVOICE_MOVES)
    reason = serializers.CharField(
        max_length=500, allow_blank=True, required=False, help_text="Kept with the move, for the house."
    )


SENDING = ("not_sent", "on_its_way", "sent", "failed")


class InvoiceSerializer(serializers.Serializer[Any]):
    """An invoice as it is shown, made of an ``InvoiceReport``."""

    id = serializers.IntegerField(source="invoice.pk")
    number = serializers.IntegerField(source="invoice.number", allow_null=True, help_text="Null until finalised.")
    tenant_id = serializers.IntegerField(source="invoice.tenant_id")
    status = serializers.ChoiceField(source="invoice.status", choices=InvoiceStatus.choices)
    currency = serializers.CharField(source="invoice.currency", help_text="ISO 4217.")
    total = serializers.SerializerMethodField(help_text="The sum of its lines.")
    credited = serializers.SerializerMethodField(help_text="What issued credit notes took off it.")
    debited = serializers.SerializerMethodField(help_text="What issued debit notes put on it.")
    amount_due = serializers.SerializerMethodField(help_text="What is still to be paid.")
    sending = serializers.ChoiceField(choices=SENDING, help_text="How far it is on its way through Stripe.")
    stripe_invoice_id = serializers.CharField(source="invoice.stripe_invoice_id", allow_blank=True)
    period_from = serializers.DateTimeField(source="invoice.period.lower")
    period_to = serializers.DateTimeField(source="invoice.period.upper", help_text="Exclusive.")
    proof_sha256 = serializers.CharField(source="invoice.proof_sha256", allow_blank=True)
    created_at = serializers.DateTimeField(source="invoice.created_at")
    created_by = serializers.CharField(source="invoice.created_by")
    finalised_at = serializers.DateTimeField(source="invoice.finalised_at", allow_null=True)
    due_at = serializers.DateTimeField(source="invoice.due_at", allow_null=True)
    settled_at = serializers.DateTimeField(source="invoice.settled_at", allow_null=True)

    def get_total(self, report: InvoiceReport) -> str:
        """With the currency's decimals."""
        return money(report.invoice.total, report.invoice.currency)

    def get_credited(self, report: InvoiceReport) -> str:
        """With the currency's decimals."""
        return money(report.credited, report.invoice.currency)

    def get_debited(self, report: InvoiceReport) -> str:
        """With the currency's decimals."""
        return money(report.debited, report.invoice.currency)

    def get_amount_due(self, report: InvoiceReport) -> str:
        """With the currency's decimals."""
        return money(report.amount_due, report.invoice.currency)


class InvoiceLineSerializer(serializers.Serializer[Any]):
    """GPU time of one model at one rate."""

    id = serializers.IntegerField(source="pk")
    gpu_model = serializers.CharField()
    rate_id = serializers.IntegerField()
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6)
    currency = serializers.CharField(source="invoice.currency")
    period_from = serializers.DateTimeField(source="period.lower")
    period_to = serializers.DateTimeField(source="period.upper")
    held_seconds = serializers.DecimalField(max_digits=20, decimal_places=6, help_text="GPU-seconds of the ledger.")
    billed_seconds = serializers.IntegerField(help_text="After the rate's minimum and increment.")
    amount = serializers.SerializerMethodField(help_text="Rounded once, half-even, to the currency's minor unit.")

    def get_amount(self, line: Any) -> str:
        """With the currency's decimals."""
        return money(line.amount, line.invoice.currency)


class PreviewLineSerializer(serializers.Serializer[Any]):
    """A line as it would stand on the invoice, made of a ``MeteredLine``."""

    gpu_model = serializers.CharField()
    rate_id = serializers.IntegerField()
    price_per_gpu_hour = serializers.DecimalField(source="terms.price_per_gpu_hour", max_digits=14, decimal_places=6)
    period_from = serializers.SerializerMethodField()
    period_to = serializers.SerializerMethodField()
    held_seconds = serializers.DecimalField(max_digits=20, decimal_places=6, help_text="GPU-seconds of the ledger.")
    billed_seconds = serializers.IntegerField(source="price.billed_seconds")
    amount = serializers.SerializerMethodField()

    def get_period_from(self, line: MeteredLine) -> datetime:
        """The first billed instant."""
        return line.period[0]

    def get_period_to(self, line: MeteredLine) -> datetime:
        """The end of the last one."""
        return line.period[1]

    def get_amount(self, line: MeteredLine) -> str:
        """With the currency's decimals."""
        return money(line.price.amount, line.terms.currency)


class PreviewSerializer(serializers.Serializer[Any]):
    """What an invoice would say if it were made now."""

    tenant_id = serializers.IntegerField()
    currency = serializers.CharField(help_text="ISO 4217.")
    total = serializers.CharField()
    lines = PreviewLineSerializer(many=True)


def shown_preview(preview: services.Preview) -> dict[str, Any]:
    """What an invoice would say, with its total as a decimal string."""
    return PreviewSerializer(
        {
            "tenant_id": preview.tenant.pk,
            "currency": preview.currency,
            "total": money(preview.total, preview.currency),
            "lines": preview.lines,
        }
    ).data


class InvoiceDetailSerializer(InvoiceSerializer):
    """An invoice with its lines and credit notes."""

    sending_detail = serializers.SerializerMethodField(help_text="How far, and why no further, in words.")
    lines = InvoiceLineSerializer(source="invoice.lines.all", many=True)
    credit_notes = CreditNoteSerializer(source="invoice.credit_notes.all", many=True)

    def get_sending_detail(self, report: InvoiceReport) -> str:
        """Names what hinders it."""
        return services.sending_in_words(report.invoice)


class ProofRowSerializer(serializers.Serializer[Any]):
    """One allocation's time behind one line."""

    line_id = serializers.IntegerField()
    allocation_id = serializers.IntegerField()
    job_id = serializers.IntegerField()
    job_name = serializers.CharField()
    gpu_id = serializers.IntegerField()
    gpu_model = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField(help_text="Exclusive.")
    held_seconds = serializers.DecimalField(max_digits=20, decimal_places=6)
    billed_seconds = serializers.IntegerField()
    rate_id = serializers.IntegerField()
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6)


class ProofSerializer(serializers.Serializer[Any]):
    """The seconds behind an invoice, and whether the ledger still says what it said when it was finalised."""

    invoice_id = serializers.IntegerField(source="invoice.pk")
    number = serializers.IntegerField(source="invoice.number", allow_null=True)
    currency = serializers.CharField(source="invoice.currency")
    total = serializers.SerializerMethodField()
    issued_sha256 = serializers.CharField(source="invoice.proof_sha256", allow_blank=True, help_text="Of its issue.")
    sha256 = serializers.CharField(help_text="Recomputed from the ledger now.")
    matches = serializers.BooleanField(allow_null=True, help_text="Null for a draft.")
    rows = ProofRowSerializer(many=True)

    def get_total(self, proof: Proof) -> str:
        """With the currency's decimals."""
        return money(proof.invoice.total, proof.invoice.currency)


def proof_csv(proof: Proof) -> str:
    """A proof's rows as CSV. A cell that a spreadsheet would run as a formula is made text by an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(ProofRowSerializer().fields)
    for row in ProofRowSerializer(proof.rows, many=True).data:
        writer.writerow(_harmless(value) for value in row.values())
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Spaces before a formula are trimmed by some spreadsheets."""
    runs = isinstance(value, str) and (value.startswith(FORMULA_STARTS) or value.lstrip().startswith(FORMULA_STARTS))
    return f"'{value}" if runs else value


class FiguresSerializer(serializers.Serializer[Any]):
    """Decimal strings in the summary's currency."""

    billed = serializers.CharField(help_text="Finalised in the window, void ones apart.")
    credited = serializers.CharField(help_text="Taken off those by credit notes.")
    debited = serializers.CharField(help_text="Put on those by debit notes.")
    paid = serializers.CharField(help_text="Of those, what was paid.")
    uncollectible = serializers.CharField(help_text="Of those, what was given up.")
    draft = serializers.CharField(help_text="All drafts that stand now.")
    open = serializers.CharField(help_text="All that is to be paid now, whenever it was billed.")
    overdue = serializers.CharField(help_text="The part of open whose due date has passed.")
    unbilled = serializers.CharField(help_text="Sold in the window and on no invoice yet.")


class TenantFiguresSerializer(FiguresSerializer):
    """One tenant's part."""

    tenant_id = serializers.IntegerField()


class ModelFiguresSerializer(serializers.Serializer[Any]):
    """One GPU model's part."""

    gpu_model = serializers.CharField()
    billed = serializers.CharField()
    unbilled = serializers.CharField()


class SummarySerializer(FiguresSerializer):
    """What a window earned, in one currency."""

    window_from = serializers.DateTimeField()
    window_to = serializers.DateTimeField()
    currency = serializers.CharField()
    currencies = serializers.ListField(child=serializers.CharField(), help_text="All that there are figures in.")
    unpriced_gpu_seconds = serializers.DecimalField(
        max_digits=20,
        decimal_places=6,
        help_text="Sold without a rate in force: on no invoice until a rate is added that was valid then.",
    )
    by_tenant = TenantFiguresSerializer(many=True)
    by_model = ModelFiguresSerializer(many=True)


def shown_summary(summary: Summary) -> dict[str, Any]:
    """The summary with every amount as a decimal string of its currency."""

    def strings(figures: Figures) -> dict[str, str]:
        return {name: money(amount, summary.currency) for name, amount in asdict(figures).items()}

    data = {
        **strings(summary.total),
        "window_from": summary.start,
        "window_to": summary.end,
        "currency": summary.currency,
        "currencies": summary.currencies,
        "unpriced_gpu_seconds": summary.unpriced_gpu_seconds,
        "by_tenant": [{"tenant_id": key, **strings(value)} for key, value in sorted(summary.by_tenant.items())],
        "by_model": [{"gpu_model": key, **strings(value)} for key, value in sorted(summary.by_model.items())],
    }
    return SummarySerializer(data).data


class UsedSerializer(serializers.Serializer[Any]):
    """GPU-seconds held, and their cost."""

    gpu_seconds = serializers.DecimalField(max_digits=20, decimal_places=6)
    cost = serializers.CharField(help_text="A decimal string in the tenant's currency.")


class UsedByDaySerializer(UsedSerializer):
    """One UTC day."""

    date = serializers.DateField()


class UsedByModelSerializer(UsedSerializer):
    """One GPU model."""

    gpu_model = serializers.CharField(allow_blank=True)


class JobCountsSerializer(serializers.Serializer[Any]):
    """Jobs submitted and ended in the window, and those alive now."""

    submitted = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    queued = serializers.IntegerField()
    blocked = serializers.IntegerField()
    running = serializers.IntegerField()


class UsageSerializer(UsedSerializer):
    """What a tenant used in a window."""

    tenant_id = serializers.IntegerField()
    window_from = serializers.DateTimeField()
    window_to = serializers.DateTimeField()
    currency = serializers.CharField()
    jobs = JobCountsSerializer()
    by_day = UsedByDaySerializer(many=True)
    by_gpu_model = UsedByModelSerializer(many=True)


def shown_usage(usage: Usage) -> dict[str, Any]:
    """The usage with every amount as a decimal string of the tenant's currency."""

    def shown(used: Used) -> dict[str, Any]:
        return {"gpu_seconds": used.gpu_seconds, "cost": money(used.cost, usage.tenant.currency)}

    data = {
        **shown(usage.total),
        "tenant_id": usage.tenant.pk,
        "window_from": usage.start,
        "window_to": usage.end,
        "currency": usage.tenant.currency,
        "jobs": usage.jobs,
        "by_day": [{"date": day, **shown(used)} for day, used in usage.by_day.items()],
        "by_gpu_model": [{"gpu_model": model, **shown(used)} for model, used in sorted(usage.by_model.items())],
    }
    return UsageSerializer(data).data
