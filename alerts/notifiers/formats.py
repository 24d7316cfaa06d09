"""A message in the forms that receivers take. Pure."""

import json
from typing import Any

from alerts.letters import Letter, as_json

# Slack cuts longer texts off, and takes no longer header.
SLACK_TEXT = 3000
SLACK_TITLE = 150
PAGERDUTY_SUMMARY = 1024


def for_webhook(letter: Letter) -> bytes:
    """Standard Webhooks' type, timestamp and data."""
    return _encode(as_json(letter))


def for_slack(letter: Letter) -> bytes:
    """A header and a section; ``text`` is what notifications show."""
    text = _escape(letter["text"])[:SLACK_TEXT]
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": letter["title"][:SLACK_TITLE]}},
        {"type": "section", "text": {"type": "mrkdwn", "text": text}},
    ]
    return _encode({"text": _escape(letter["title"]), "blocks": blocks})


def for_pagerduty(letter: Letter, routing_key: str) -> bytes:
    """An event of the Events API v2; trigger and resolve of an incident share their ``dedup_key``."""
    event = letter["events"][0]
    known: dict[str, Any] = {"routing_key": routing_key, "dedup_key": f"gpufleet-incident-{event['id']}"}
    if letter["kind"] == "resolved":
        return _encode({**known, "event_action": "resolve"})
    payload = {
        "summary": f"{letter['rule_name']}: {event['message']}"[:PAGERDUTY_SUMMARY],
        "source": event["name"] or event["subject"],
        "severity": letter["severity"],
        "timestamp": event["since"],
        "component": event["subject"],
        "class": letter["rule_type"],
        "custom_details": {"what_to_do": letter["remedy"], "cost_per_hour": letter["cost_per_hour"], **event},
    }
    links = [{"href": event["url"], "text": "The incident in gpufleet"}] if "://" in event["url"] else []
    return _encode({**known, "event_action": "trigger", "payload": payload, "links": links})


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
