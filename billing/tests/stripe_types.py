"""Requests as Stripe reads them, checked against the types of Stripe's own library."""

import re
import urllib.parse
from typing import Any

from stripe import params as stripe_params

# Arguments of the library that never travel.
OF_THE_LIBRARY = {"api_key", "content_type", "headers", "idempotency_key", "max_network_retries"} | {
    "stripe_account",
    "stripe_context",
    "stripe_version",
}
Thing = dict[str, Any]


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        error = {"type": "invalid_request_error", "message": message, "code": code, "param": param}
        self.body: Thing = {"error": {name: value for name, value in error.items() if value is not None}}


def check_params(shape: str, params: Thing, where: str = "") -> None:
    """Refuse what the type of Stripe's own library does not know or requires, also further in."""
    kind = getattr(stripe_params, shape)
    known = {name: str(text) for name, text in kind.__annotations__.items() if name not in OF_THE_LIBRARY}
    for name, value in params.items():
        place = f"{where}[{name}]" if where else name
        if name not in known:
            raise Refusal(f"Received unknown parameter: {place}", code="parameter_unknown", param=place)
        _check_value(known[name], value, place)
    missing = set(kind.__required_keys__) - params.keys()
    if missing:
        raise Refusal(f"Missing required param: {min(missing)}.", code="parameter_missing", param=min(missing))


def _check_value(annotation: str, value: Any, place: str) -> None:
    nested = re.search(r"\w+Params\w+", annotation)
    if isinstance(value, dict) and nested:
        check_params(nested.group(), value, place)
    choices = re.search(r"Literal\[([^]]+)\]", annotation)
    if choices and not isinstance(value, dict) and f"'{value}'" not in choices.group(1).replace('"', "'"):
        raise Refusal(f"Invalid {place}: {value}", param=place)
    if re.search(r"\[int\]|'int'", annotation) and not re.fullmatch(r"-?\d+", str(value)):
        raise Refusal(f"Invalid integer: {value}", code="parameter_invalid_integer", param=place)


def unflatten(text: str) -> Thing:
    """``a[b]=c`` as ``{"a": {"b": "c"}}``."""
    tree: Thing = {}
    for name, value in urllib.parse.parse_qsl(text, keep_blank_values=True):
        *outer, last = re.findall(r"[^\[\]]+", name)
        branch = tree
        for part in outer:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree
