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
from alerts.services.retention import prune_history
from alerts.services.rules import (
    LONGEST_SILENCE,
    RuleHasHistory,
    RuleNameTaken,
    check_recovery,
    check_scope,
    create_rule,
    delete_rule,
    end_silence,
    silence_rule,
    switch_rules,
    update_rule,
)

__all__ = [
    "LONGEST_SILENCE",
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
    "end_silence",
    "evaluate_rules",
    "plan_maintenance",
    "prune_history",
    "retry_deliveries",
    "silence_rule",
    "switch_rules",
    "update_channel",
    "update_rule",
]
