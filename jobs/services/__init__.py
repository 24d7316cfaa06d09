"""Submitting jobs and moving them along. Ending a job frees its GPUs in the same transaction."""

from jobs.services.executing import RunIsOver, report_run
from jobs.services.moving import (
    ESTIMATES_DIFFER_BY,
    IllegalMove,
    NotWaiting,
    cancel_waiting_jobs,
    change_priority,
    change_status,
    change_statuses,
    doorbell,
    fail_lost_job,
    keep_estimates,
    lock_waiting_jobs,
    requeue_lost_job,
    ring_doorbell,
    take_from_queue,
)
from jobs.services.preempting import announce_preemption, preempt_job, spare_jobs, withdraw_claims
from jobs.services.pricing import price_unpriced_time
from jobs.services.submitting import (
    JobFields,
    JobWish,
    NoSuchHardware,
    OverQuota,
    TenantInactive,
    submit_job,
    submit_jobs,
)

__all__ = [
    "ESTIMATES_DIFFER_BY",
    "IllegalMove",
    "JobFields",
    "JobWish",
    "NoSuchHardware",
    "NotWaiting",
    "OverQuota",
    "RunIsOver",
    "TenantInactive",
    "announce_preemption",
    "cancel_waiting_jobs",
    "change_priority",
    "change_status",
    "change_statuses",
    "doorbell",
    "fail_lost_job",
    "keep_estimates",
    "lock_waiting_jobs",
    "preempt_job",
    "price_unpriced_time",
    "report_run",
    "requeue_lost_job",
    "ring_doorbell",
    "spare_jobs",
    "submit_job",
    "submit_jobs",
    "take_from_queue",
    "withdraw_claims",
]
