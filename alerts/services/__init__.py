"""Everything that changes rules, channels, incidents and the outbox."""

from alerts.services.channels import (
    ChannelHasHistory,
    ChannelNameTaken,
    check_channel,
    create_channel,
    delete_channel,
    update_channel,
)
from alerts.services.evaluation import evaluate_rules
from alerts.services.incidents import acknowledge_event, acknowledge_events, end_maintenance, plan_maintenance
from alerts.services.outbox import deliver_due, retry_deliveries
from alerts.services.rules import (
    RuleHasHistory,
    RuleNameTaken,
    check_recovery,
    check_scope,
    create_rule,
    delete_rule,
    silence_rule,
    switch_rules,
    update_rule,
)

__all__ = [
    "ChannelHasHistory",
    "ChannelNameTaken",
    "RuleHasHistory",
    "RuleNameTaken",
    "acknowledge_event",
    "acknowledge_events",
    "check_channel",
    "check_recovery",
    "check_scope",
    "create_channel",
    "create_rule",
    "delete_channel",
    "delete_rule",
    "deliver_due",
    "end_maintenance",
    "evaluate_rules",
    "plan_maintenance",
    "retry_deliveries",
    "silence_rule",
    "switch_rules",
    "update_channel",
    "update_rule",
]
