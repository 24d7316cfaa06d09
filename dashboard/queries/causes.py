"""The causes of leakage: what each means, what to do about it, and which list of the console shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

# Sold time that no invoice holds after this long is late; billing by the month needs up to 31 days.
UNBILLED_AFTER: Final = timedelta(days=35)
# How far back late billing is looked for.
UNBILLED_SINCE: Final = timedelta(days=365)


class Nature(StrEnum):
    """What became of the money."""

    LOST = "lost"  # It was never earned, or less than the list price was.
    LATE = "late"  # It was earned, and is not here yet.
    RECLAIMABLE = "reclaimable"  # It is paid for; the GPUs could serve somebody else too.


class Cause(StrEnum):
    """Why money is not there. The first eight are the ledger's names of unsold time."""

    COULD_HAVE_RUN = "could_have_run"
    HELD_BY_QUOTA = "held_by_quota"
    FRAGMENTED = "fragmented"
    NO_DEMAND = "no_demand"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    UNHEALTHY = "unhealthy"
    OFFLINE = "offline"
    UNPRICED = "unpriced"
    WITHOUT_TENANT = "without_tenant"
    BELOW_LIST = "below_list"
    UNBILLED = "unbilled"
    OVERDUE = "overdue"
    FAILED_SYNC = "failed_sync"
    UNDERUSED = "underused"


UNSOLD: Final = tuple(Cause)[:8]


@dataclass(frozen=True, slots=True)
class About:
    """A cause in words. ``page`` and ``query`` name the console's list; the time is priced at the list price in force,
    unless ``meaning`` says otherwise."""

    title: str
    meaning: str
    advice: str
    page: str
    query: str = ""
    nature: Nature = Nature.LOST


ABOUT: Final[Mapping[Cause, About]] = {
    Cause.COULD_HAVE_RUN: About(
        "Idle, and a job could have run",
        "A job that takes this model waited for the scheduler's next cycle while the GPU was free.",
        "Look at the age of the last scheduler cycle in /readyz and at the worker's load: the doorbell should start a "
        "job within a second or two.",
        "admin:jobs_job_changelist",
        "status__exact=queued",
    ),
    Cause.HELD_BY_QUOTA: About(
        "Idle, and demand was held by quota",
        "A job that takes this model waited because its tenant holds its full quota.",
        "Offer the tenants that wait a larger quota, or burst capacity at its own rate.",
        "admin:jobs_kindwait_changelist",
        "code=quota",
    ),
    Cause.FRAGMENTED: About(
        "Idle, and the free GPUs could not serve the demand together",
        "A job that takes this model needed more GPUs, or more on one node, than were free.",
        "Drain half-empty nodes so that whole ones come free, or ask for smaller jobs.",
        "admin:jobs_kindwait_changelist",
        "code=fragmented",
    ),
    Cause.NO_DEMAND: About(
        "Idle, and nobody wanted it",
        "No job waited that takes this model.",
        "Sell it: a lower price for interruptible jobs, another cluster's queue, or fewer GPUs of this model.",
        "admin:clusters_gpu_changelist",
        "state=available",
    ),
    Cause.DRAINING: About(
        "Draining",
        "The node takes no new jobs, on an operator's word.",
        "Finish the work on the node, or put it back into service.",
        "admin:clusters_node_changelist",
        "status=draining",
    ),
    Cause.MAINTENANCE: About(
        "In maintenance",
        "The node or its cluster is out of service, on an operator's word.",
        "Shorten the maintenance, or do it where demand is low.",
        "admin:clusters_node_changelist",
        "status=maintenance",
    ),
    Cause.UNHEALTHY: About(
        "Unhealthy",
        "The GPU's readings or an operator took it out of service.",
        "Reset, repair or replace the GPUs below; the period's reason says what was seen.",
        "admin:clusters_gpu_changelist",
        "state=unhealthy",
    ),
    Cause.OFFLINE: About(
        "Offline",
        "The node's heartbeats stopped.",
        "Find out why the nodes below fell silent: power, network or agent.",
        "admin:clusters_node_changelist",
        "status=offline",
    ),
    Cause.UNPRICED: About(
        "Sold without a price",
        "A job started on a model that had no rate in force, so its time is on no invoice.",
        "Add a rate for the model. Time that is over stays unpriced.",
        "admin:billing_rate_changelist",
    ),
    Cause.WITHOUT_TENANT: About(
        "Sold to nobody",
        "A job without a tenant held the GPU; nobody will be billed. Priced at the rate that was locked in.",
        "Submit jobs with a tenant's key, or with tenant_id.",
        "admin:jobs_job_changelist",
        "tenant__isnull=True",
    ),
    Cause.BELOW_LIST: About(
        "Sold below the list price",
        "The tenant's or the plan's rate is lower than the list price in those seconds; the amount is the difference.",
        "Check that each discount still has its reason.",
        "admin:billing_rate_changelist",
    ),
    Cause.UNBILLED: About(
        f"Not billed for more than {UNBILLED_AFTER.days} days",
        "Sold, priced, and on no invoice, whatever the window. Held time at the locked rate, before minimums.",
        "Create invoices for these tenants.",
        "admin:billing_invoice_changelist",
        nature=Nature.LATE,
    ),
    Cause.OVERDUE: About(
        "Overdue",
        "Billed, open, and past its due date, whatever the window.",
        "Remind the tenants, and stop new starts where nothing helps.",
        "admin:billing_invoice_changelist",
        "overdue=yes",
        nature=Nature.LATE,
    ),
    Cause.FAILED_SYNC: About(
        "Not on its way to the tenant",
        "A step to Stripe failed and waits to be tried again, or is a dead letter, whatever the window. What is due on "
        "the invoices that it is about.",
        "Read the steps' last errors, mend what they name, and try the dead letters again.",
        "admin:billing_outboxmessage_changelist",
        "status__exact=dead",
        nature=Nature.LATE,
    ),
    Cause.UNDERUSED: About(
        "Held, and hardly used",
        "The last hour, whatever the window, of GPUs that a job holds now and used less than the given share of on "
        "average. It is paid for, and so not lost.",
        "Ask the tenants below whether the jobs still work; end those that don't, or move them to smaller GPUs.",
        "admin:jobs_job_changelist",
        "status__exact=running",
        nature=Nature.RECLAIMABLE,
    ),
}
