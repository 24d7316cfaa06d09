"""Shapes of a simulation's question and answer on the wire."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from gpufleet.common.currencies import CURRENCIES
from gpufleet.common.serializers import IdField, StrictSerializer
from jobs.placement import WaitingJob
from jobs.serializers import LONGEST_MINUTES, MOST_GPUS
from jobs.simulation import Addition, Changes
from jobs.whatif import Answer, Asked, Money

DEFAULT_HOURS = 24
MOST_HOURS = 24 * 30
DEFAULT_SECONDS = 6
MOST_SECONDS = 20
MOST_ITEMS = 50
MOST_NODES = 10_000


class HypotheticalJobSerializer(StrictSerializer):
    """A job that might be submitted now."""

    cluster_id = IdField()
    gpu_count = serializers.IntegerField(min_value=1, max_value=MOST_GPUS, default=1)
    gpu_type = serializers.CharField(max_length=300, allow_blank=True, default="")
    priority = serializers.IntegerField(min_value=1, max_value=10, default=5, help_text="1 is the highest.")
    tenant_id = IdField(default=None, allow_null=True)
    estimated_duration_min = serializers.IntegerField(
        min_value=1, max_value=LONGEST_MINUTES, default=None, allow_null=True
    )


class QuotaChangeSerializer(StrictSerializer):
    """Another quota of a tenant."""

    tenant_id = IdField()
    gpu_quota = serializers.IntegerField(min_value=1, max_value=2**31 - 1)


class AddedGpusSerializer(StrictSerializer):
    """More GPUs of a model, on new nodes."""

    cluster_id = IdField()
    model = serializers.CharField(max_length=100)
    gpus = serializers.IntegerField(min_value=1, max_value=MOST_NODES)
    gpus_per_node = serializers.IntegerField(min_value=1, max_value=MOST_NODES, default=8)


class PriceChangeSerializer(StrictSerializer):
    """Another price of a model, for every tenant whose rate is in this currency, and on the list."""

    gpu_model = serializers.CharField(max_length=100)
    price_per_gpu_hour = serializers.DecimalField(max_digits=14, decimal_places=6, min_value=Decimal(0))
    currency = serializers.ChoiceField(choices=sorted(CURRENCIES), default="USD")


def _many(child: StrictSerializer) -> serializers.Field[Any, Any, Any, Any]:
    return serializers.ListSerializer(child=child, default=list, max_length=MOST_ITEMS)


class QuestionSerializer(StrictSerializer):
    """What if. Without a job, the figures are of the queue as it is."""

    job_id = IdField(required=False, help_text="A queued job; or give one in job.")
    job = HypotheticalJobSerializer(required=False)
    quotas: serializers.Field[Any, Any, Any, Any] = serializers.ListSerializer(
        child=QuotaChangeSerializer(), default=list, max_length=MOST_ITEMS
    )
    drain_node_ids = serializers.ListField(child=IdField(), default=list, max_length=MOST_NODES)
    add_gpus: serializers.Field[Any, Any, Any, Any] = serializers.ListSerializer(
        child=AddedGpusSerializer(), default=list, max_length=MOST_ITEMS
    )
    prices: serializers.Field[Any, Any, Any, Any] = serializers.ListSerializer(
        child=PriceChangeSerializer(), default=list, max_length=MOST_ITEMS
    )
    horizon_hours = serializers.IntegerField(min_value=1, max_value=MOST_HOURS, default=DEFAULT_HOURS)
    time_limit_s = serializers.IntegerField(
        min_value=1, max_value=MOST_SECONDS, default=DEFAULT_SECONDS, help_text="Of our time, not of the simulated."
    )

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        """One job at most, and one change of each thing."""
        if "job" in values and "job_id" in values:
            raise serializers.ValidationError({"job": ["Give either job or job_id."]})
        _once(values, "quotas", "tenant_id")
        _once(values, "prices", "gpu_model")
        return values


def _once(values: dict[str, Any], name: str, key: str) -> None:
    keys = [one[key] for one in values[name]]
    if len(set(keys)) < len(keys):
        raise serializers.ValidationError({name: [f"Each {key} stands once."]})


def question(values: dict[str, Any], *, tenant_id: int | None, now: datetime) -> Asked:
    """The question, after the checks; ``tenant_id`` is whose job it would be."""
    job = values.get("job")
    changes = Changes(
        quotas={one["tenant_id"]: one["gpu_quota"] for one in values["quotas"]},
        drained=frozenset(values["drain_node_ids"]),
        additions=[Addition(**one) for one in values["add_gpus"]],
        prices={one["gpu_model"]: (one["currency"], one["price_per_gpu_hour"]) for one in values["prices"]},
    )
    return Asked(
        changes=changes,
        horizon=timedelta(hours=values["horizon_hours"]),
        seconds=values["time_limit_s"],
        job_id=values.get("job_id"),
        job=None if job is None else _waiting(job, tenant_id, now),
    )


def _waiting(job: dict[str, Any], tenant_id: int | None, now: datetime) -> WaitingJob:
    return WaitingJob(
        job_id=0,
        cluster_id=job["cluster_id"],
        tenant_id=tenant_id,
        gpu_count=job["gpu_count"],
        gpu_type=job["gpu_type"],
        priority=job["priority"],
        submitted_at=now,
        minutes=job["estimated_duration_min"],
    )


class MoneySerializer(serializers.Serializer[Any]):
    """An amount."""

    amount = serializers.SerializerMethodField()
    currency = serializers.CharField(help_text="ISO 4217.")

    def get_amount(self, money: Money) -> str:
        """A decimal string in the currency's minor unit."""
        return str(money.amount)


class OutlookSerializer(serializers.Serializer[Any]):
    """When the job starts, and on what."""

    starts_at = serializers.DateTimeField(allow_null=True, help_text="Null: not within what was simulated.")
    waits_s = serializers.FloatField(allow_null=True, help_text="From its submission.")
    model = serializers.CharField(allow_null=True)
    nodes = serializers.ListField(child=serializers.CharField(), help_text="Host names; new-1 … are added ones.")
    reason = serializers.CharField(allow_blank=True, help_text="Why it had not started by then.")


class FiguresSerializer(serializers.Serializer[Any]):
    """Of the time from made_at to until. A tenant's key is told of its own jobs."""

    started = serializers.IntegerField(source="waits.started", help_text="Jobs.")
    still_waiting = serializers.IntegerField(source="waits.waiting", help_text="Jobs at the end.")
    wait_p50_s = serializers.FloatField(
        source="waits.p50_s", allow_null=True, help_text="From submission to start; null: not started by until."
    )
    wait_p95_s = serializers.FloatField(source="waits.p95_s", allow_null=True)
    sold_gpu_seconds = serializers.FloatField()
    registered_gpu_seconds = serializers.FloatField(allow_null=True)
    utilization = serializers.FloatField(allow_null=True, help_text="Sold over registered, from 0 to 1.")
    revenue = MoneySerializer(many=True)
    leakage = MoneySerializer(many=True, allow_null=True)


class LengthsSerializer(serializers.Serializer[Any]):
    """Where the lengths of the jobs that ran are from, as numbers of jobs."""

    estimate = serializers.IntegerField()
    history = serializers.IntegerField()
    unknown = serializers.IntegerField()


class ScenarioSerializer(serializers.Serializer[Any]):
    """A world and what comes of it."""

    job = OutlookSerializer(allow_null=True)
    figures = FiguresSerializer()
    plans = serializers.IntegerField(help_text="How often the scheduler was asked.")
    lengths = LengthsSerializer()


class AnswerSerializer(serializers.Serializer[Any]):
    """The queue run forward, as it is and as it might be."""

    made_at = serializers.DateTimeField()
    horizon = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="How far it came; all figures are up to here.")
    cut = serializers.BooleanField(help_text="The time limit came before the horizon.")
    present = ScenarioSerializer()
    changed = ScenarioSerializer(allow_null=True, help_text="Null where nothing was changed.")
    assumptions = serializers.ListField(child=serializers.CharField())


def shown_answer(answer: Answer) -> dict[str, Any]:
    """The answer as the API shows it."""
    shown: dict[str, Any] = AnswerSerializer(answer).data
    return shown
