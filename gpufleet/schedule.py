"""The one beat table: everything that runs by the clock, and how often. Times are UTC."""

from typing import Any

from celery.schedules import crontab

BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # The guarantee behind the doorbell: whatever was missed is placed within this time. A message that waited
    # longer than its period is worthless, since the next one does the same work; hence `expires`.
    "scheduler-tick": {"task": "jobs.tick", "schedule": 30.0, "options": {"expires": 30}},
    "silent-nodes": {"task": "clusters.sweep_silent_nodes", "schedule": 15.0, "options": {"expires": 15}},
    "alert-delivery": {"task": "alerts.deliver", "schedule": 10.0, "options": {"expires": 10}},
    "alert-evaluation": {"task": "alerts.evaluate", "schedule": 30.0, "options": {"expires": 30}},
    "alert-history": {"task": "alerts.prune_history", "schedule": 3600.0, "options": {"expires": 3600}},
    "metric-partitions": {"task": "clusters.maintain_partitions", "schedule": 3600.0, "options": {"expires": 3600}},
    "metric-forwarding": {"task": "clusters.forward_samples", "schedule": 15.0, "options": {"expires": 15}},
    "metric-rollup": {"task": "clusters.roll_up_metrics", "schedule": 300.0, "options": {"expires": 300}},
    "ledger-rollup": {"task": "jobs.roll_up_ledger", "schedule": 600.0, "options": {"expires": 600}},
    "console-figures": {"task": "dashboard.keep_figures", "schedule": 60.0, "options": {"expires": 60}},
    "stripe-outbox": {"task": "billing.send_outbox", "schedule": 30.0, "options": {"expires": 30}},
    "stripe-comparison": {"task": "billing.compare_with_stripe", "schedule": crontab(hour=2, minute=40)},
    "service-level-credits": {
        "task": "billing.raise_service_level_credits",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "idempotency-expiry": {
        "task": "common.expire_idempotent_responses",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
}
