"""Shapes of the dashboard's figures on the wire. Amounts are decimal strings in the currency beside them."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.urls import reverse
from rest_framework import serializers

from dashboard.queries import FleetReport, Kpis, Leakage, Revenue
from dashboard.queries.causes import ABOUT, Cause, Nature
from dashboard.queries.fleet import STATES, Part, Present
from dashboard.queries.kpis import Period, change
from dashboard.queries.losses import Loss, Row
from dashboard.queries.prices import amount_of, seconds_of
from dashboard.queries.revenue import Earned
from jobs.ledger import Account

MONEY = ("revenue", "revenue_per_gpu_hour", "revenue_per_sold_gpu_hour", "leakage")
KINDS = (
    "sold",
    "could_have_run",
    "held_by_quota",
    "fragmented",
    "no_demand",
    "draining",
    "maintenance",
    "unhealthy",
    "offline",
)


def seconds_field(help_text: str = "") -> serializers.DecimalField:
    """A field of GPU-seconds, to the microsecond, as a decimal string."""
    return serializers.DecimalField(max_digits=20, decimal_places=6, help_text=help_text)


def money_field(help_text: str = "", *, allow_null: bool = False) -> serializers.CharField:
    """A field of money."""
    return serializers.CharField(help_text=help_text, allow_null=allow_null)


class WindowSerializer(serializers.Serializer[Any]):
    """What every report over time begins with."""

    window_from = serializers.DateTimeField()
    window_to = serializers.DateTimeField()
    currency = serializers.CharField(help_text="ISO 4217, of every amount here.")


class AccountSerializer(serializers.Serializer[Any]):
    """What the GPU-seconds were spent on. ``registered`` is exactly the sum of the others."""

    registered = seconds_field()
    sold = seconds_field()
    could_have_run = seconds_field("Idle while a job waited for the scheduler.")
    held_by_quota = seconds_field("Idle while a job waited for its tenant's quota.")
    fragmented = seconds_field("Idle while a job needed more GPUs together than were free.")
    no_demand = seconds_field("Idle, and no job waited that takes the model.")
    draining = seconds_field()
    maintenance = seconds_field()
    unhealthy = seconds_field()
    offline = seconds_field()


class SharesSerializer(serializers.Serializer[Any]):
    """Parts of the registered time, 0 to 1."""

    sold = serializers.FloatField()
    idle = serializers.FloatField()
    draining = serializers.FloatField()
    maintenance = serializers.FloatField()
    unhealthy = serializers.FloatField()
    offline = serializers.FloatField()


class QueueWaitSerializer(serializers.Serializer[Any]):
    """From submission to start, of the jobs that started in the window."""

    jobs = serializers.IntegerField()
    p50_s = serializers.FloatField(source="p50", allow_null=True)
    p95_s = serializers.FloatField(source="p95", allow_null=True)


class PeriodSerializer(serializers.Serializer[Any]):
    """How the fleet did in a window."""

    gpu_seconds = AccountSerializer()
    shares = SharesSerializer()
    revenue = money_field("Sold time at the prices that were locked in.")
    revenue_per_gpu_hour = money_field("Per registered GPU-hour, sold or not.", allow_null=True)
    revenue_per_sold_gpu_hour = money_field("Per GPU-hour sold in this currency.", allow_null=True)
    leakage = money_field("What /api/dashboard/leakage calls lost.")
    queue_wait = QueueWaitSerializer()


class PreviousSerializer(PeriodSerializer):
    """The window of the same length before."""

    window_from = serializers.DateTimeField()
    window_to = serializers.DateTimeField()


class ChangeSerializer(serializers.Serializer[Any]):
    """By what part of the previous window's figure this one's has grown; null where there is nothing to compare."""

    revenue = serializers.FloatField(allow_null=True)
    revenue_per_gpu_hour = serializers.FloatField(allow_null=True)
    revenue_per_sold_gpu_hour = serializers.FloatField(allow_null=True)
    leakage = serializers.FloatField(allow_null=True)


class KpisSerializer(WindowSerializer, PeriodSerializer):
    """How the fleet does."""

    gpus = serializers.IntegerField(help_text="In service now.")
    previous = PreviousSerializer()
    change = ChangeSerializer()


class StatesSerializer(serializers.Serializer[Any]):
    """GPUs by what they do now."""

    sold = serializers.IntegerField()
    idle = serializers.IntegerField()
    draining = serializers.IntegerField()
    maintenance = serializers.IntegerField()
    unhealthy = serializers.IntegerField()
    offline = serializers.IntegerField()


class PresentSerializer(serializers.Serializer[Any]):
    """GPUs in service now."""

    gpus = serializers.IntegerField()
    states = StatesSerializer()
    utilization_pct = serializers.FloatField(
        allow_null=True, help_text="Mean of the readings of the last two minutes; null without any."
    )


class ClusterNowSerializer(PresentSerializer):
    """One cluster now."""

    cluster_id = serializers.IntegerField()
    name = serializers.CharField()


class NodeNowSerializer(PresentSerializer):
    """One node now."""

    node_id = serializers.IntegerField()
    cluster_id = serializers.IntegerField()
    hostname = serializers.CharField()


class ModelNowSerializer(PresentSerializer):
    """One GPU model now."""

    gpu_model = serializers.CharField(allow_blank=True)


class FleetSerializer(PresentSerializer):
    """The fleet now."""

    at = serializers.DateTimeField()
    clusters = ClusterNowSerializer(many=True)
    models = ModelNowSerializer(many=True)
    nodes = NodeNowSerializer(many=True)


class EarnedSerializer(serializers.Serializer[Any]):
    """Held time at locked prices, before minimums, increments and rounding: metered = billed + drafted + unbilled."""

    sold_gpu_seconds = seconds_field("Sold in this currency or without a price.")
    unpriced_gpu_seconds = seconds_field("The part of it without a price: worth nothing until somebody acts.")
    metered = money_field()
    billed = money_field("On finalised invoices.")
    drafted = money_field("On drafts.")
    unbilled = money_field("On no invoice.")


class DayEarnedSerializer(EarnedSerializer):
    """One UTC day of the window; its first and last may be parts of a day."""

    day = serializers.DateField()


class TenantEarnedSerializer(EarnedSerializer):
    """One tenant's part; null: jobs without a tenant."""

    tenant_id = serializers.IntegerField(allow_null=True)
    tenant = serializers.CharField(allow_blank=True)


class ModelEarnedSerializer(EarnedSerializer):
    """One GPU model's part."""

    gpu_model = serializers.CharField(allow_blank=True)


class RevenueSerializer(WindowSerializer):
    """What the window earned."""

    currencies = serializers.ListField(child=serializers.CharField(), help_text="All that time was sold in.")
    total = EarnedSerializer()
    previous = EarnedSerializer(help_text="The total of the window of the same length before.")
    by_day = DayEarnedSerializer(many=True)
    by_tenant = TenantEarnedSerializer(many=True)
    by_model = ModelEarnedSerializer(many=True)


class LossRowSerializer(serializers.Serializer[Any]):
    """One of the largest rows behind a cause."""

    name = serializers.CharField(help_text="For people.")
    gpu_seconds = seconds_field()
    amount = money_field()
    cluster_id = serializers.IntegerField(allow_null=True)
    node_id = serializers.IntegerField(allow_null=True)
    gpu_id = serializers.IntegerField(allow_null=True)
    gpu_model = serializers.CharField(allow_null=True, allow_blank=True)
    tenant_id = serializers.IntegerField(allow_null=True)
    rate_id = serializers.IntegerField(allow_null=True)
    invoice_id = serializers.IntegerField(allow_null=True)
    job_id = serializers.IntegerField(allow_null=True)


class OtherRowsSerializer(serializers.Serializer[Any]):
    """The rows of a cause that are not shown, so that all add up to it."""

    rows = serializers.IntegerField()
    gpu_seconds = seconds_field()
    amount = money_field()


class LossSerializer(serializers.Serializer[Any]):
    """One cause of leakage."""

    cause = serializers.ChoiceField(choices=[cause.value for cause in Cause])
    title = serializers.CharField()
    meaning = serializers.CharField()
    nature = serializers.ChoiceField(
        choices=[nature.value for nature in Nature],
        help_text="lost: never earned. late: earned, and not here yet. reclaimable: paid for, and hardly used.",
    )
    gpu_seconds = seconds_field()
    amount = money_field()
    unvalued_gpu_seconds = seconds_field("The part that no list price values; its amount is missing.")
    advice = serializers.CharField()
    link = serializers.CharField(help_text="The list of the operator's console that shows it.")
    rows = LossRowSerializer(many=True, help_text="The ten largest, the costliest first.")
    other_rows = OtherRowsSerializer()


class LeakageSerializer(WindowSerializer):
    """Where the money goes, the costliest cause first."""

    lost = money_field("The sum of the causes whose nature is lost.")
    gpu_seconds = AccountSerializer()
    causes = LossSerializer(many=True)


def shown_kpis(report: Kpis) -> dict[str, Any]:
    """The figures as the API shows them."""
    now, before = report.now, report.before
    grown = {name: change(getattr(now, name), getattr(before, name)) for name in MONEY}
    previous = {"window_from": before.start, "window_to": before.end, **_period(before)}
    data = {**_window(report), "gpus": report.gpus, **_period(now), "previous": previous, "change": grown}
    return KpisSerializer(data).data


def _period(period: Period) -> dict[str, Any]:
    account = period.account
    return {
        "gpu_seconds": _account(account),
        "shares": {name: period.share(getattr(account, name)) for name in STATES},
        **{name: _text(getattr(period, name)) for name in MONEY},
        "queue_wait": period.queue_wait,
    }


def shown_fleet(report: FleetReport) -> dict[str, Any]:
    """The fleet as the API shows it."""
    data = {
        "at": report.now,
        **_present(report.total),
        "clusters": [{"cluster_id": part.id, "name": part.name, **_present(part.present)} for part in report.clusters],
        "models": [{"gpu_model": part.name, **_present(part.present)} for part in report.models],
        "nodes": [_node(part) for part in report.nodes],
    }
    return FleetSerializer(data).data


def shown_revenue(report: Revenue) -> dict[str, Any]:
    """The revenue as the API shows it: days in order, the largest tenants and models first."""

    def earned(part: Earned) -> dict[str, Any]:
        money = {name: getattr(part, name) for name in ("metered", "billed", "drafted", "unbilled")}
        return {
            "sold_gpu_seconds": seconds_of(part.sold),
            "unpriced_gpu_seconds": seconds_of(part.unpriced),
            **{name: str(amount_of(worth, report.currency)) for name, worth in money.items()},
        }

    data = {
        **_window(report),
        "currencies": report.currencies,
        "total": earned(report.total),
        "previous": earned(report.previous),
        "by_day": [{"day": day, **earned(part)} for day, part in sorted(report.by_day.items())],
        "by_tenant": [
            {"tenant_id": key, "tenant": report.tenants[key], **earned(part)}
            for key, part in _largest(report.by_tenant.items())
        ],
        "by_model": [{"gpu_model": key, **earned(part)} for key, part in _largest(report.by_model.items())],
    }
    return RevenueSerializer(data).data


def shown_leakage(report: Leakage) -> dict[str, Any]:
    """The leakage as the API shows it."""
    data = {
        **_window(report),
        "lost": str(report.lost),
        "gpu_seconds": _account(report.account),
        "causes": [_loss(loss) for loss in report.losses],
    }
    return LeakageSerializer(data).data


def _window(report: Kpis | Revenue | Leakage) -> dict[str, Any]:
    return {"window_from": report.start, "window_to": report.end, "currency": report.currency}


def _account(account: Account) -> dict[str, Decimal]:
    return {name: seconds_of(getattr(account, name)) for name in ("registered", *KINDS)}


def _present(present: Present) -> dict[str, Any]:
    return {"gpus": present.gpus, "states": present.states, "utilization_pct": present.utilization_pct}


def _node(part: Part) -> dict[str, Any]:
    return {"node_id": part.id, "cluster_id": part.cluster_id, "hostname": part.name, **_present(part.present)}


def _largest(items: Iterable[tuple[Any, Earned]]) -> list[tuple[Any, Earned]]:
    return sorted(items, key=lambda item: (-item[1].metered, -item[1].sold, str(item[0])))


def _loss(loss: Loss) -> dict[str, Any]:
    about = ABOUT[loss.cause]
    return {
        "cause": loss.cause.value,
        "title": about.title,
        "meaning": about.meaning,
        "nature": about.nature.value,
        "gpu_seconds": seconds_of(loss.microseconds),
        "amount": str(loss.amount),
        "unvalued_gpu_seconds": seconds_of(loss.unvalued),
        "advice": about.advice,
        "link": f"{reverse(about.page)}?{about.query}".rstrip("?"),
        "rows": [_loss_row(row) for row in loss.rows],
        "other_rows": {
            "rows": loss.rows_total - len(loss.rows),
            "gpu_seconds": seconds_of(loss.other_microseconds),
            "amount": str(loss.other_amount),
        },
    }


def _loss_row(row: Row) -> dict[str, Any]:
    about = row.about
    return {
        "name": row.label,
        "gpu_seconds": seconds_of(row.microseconds),
        "amount": str(row.amount),
        "cluster_id": row.cluster_id,
        "node_id": row.node_id,
        "gpu_id": about.gpu_id,
        "gpu_model": about.gpu_model,
        "tenant_id": about.tenant_id,
        "rate_id": about.rate_id,
        "invoice_id": about.invoice_id,
        "job_id": about.job_id,
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)
