"""A Stripe of our own for tests and for trying things out: a real HTTP server with a state, on a free port.

It knows the calls that gpufleet makes. Parameters are checked against the types of Stripe's own library, so that one
that Stripe does not know is refused here as well; idempotency keys are kept with the answer they got, 500s included; it
can fail before or after acting; and it signs its webhooks. It shows that our calls are well-formed and what becomes of
them, not that Stripe agrees: ``test_stripe_live.py`` asks Stripe.

    python -m billing.tests.fake_stripe --port 12111 --webhook http://127.0.0.1:8000/api/billing/stripe/webhook
"""

import argparse
import copy
import hashlib
import hmac
import itertools
import json
import logging
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from billing.tests.stripe_types import Refusal, Thing, check_params, unflatten

logger = logging.getLogger(__name__)

API_KEY = "sk_test_gpufleet"
SECRET = "whsec_gpufleet"
Answer = tuple[int, Thing]


@dataclass
class Fault:
    """One failure to come. ``how``: ``before`` or ``after`` acting it answers 500; ``cut`` acts and hangs up;
    ``deaf`` hangs up without acting; ``busy`` answers 429."""

    path: str
    how: str


@dataclass
class FakeStripe:
    """The state behind the server. Times are seconds since the epoch."""

    clock: Callable[[], float] = time.time
    url: str = ""
    things: dict[str, Thing] = field(default_factory=dict)
    events: list[Thing] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    keys: dict[str, tuple[str, Answer]] = field(default_factory=dict)
    hook: tuple[str, str] | None = None
    lock: Any = field(default_factory=threading.RLock)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def of(self, kind: str) -> list[Thing]:
        """All things of a kind, oldest first."""
        return [thing for thing in self.things.values() if thing["object"] == kind]

    def fail(self, path: str, how: str) -> None:
        """Let the next call whose path matches fail."""
        self.faults.append(Fault(path, how))

    def forget_keys(self) -> None:
        """What Stripe may do with keys that are a day old."""
        self.keys.clear()

    def signed(self, event: Thing, *, secret: str = SECRET, at: float | None = None) -> tuple[bytes, str]:
        """A webhook's body and its ``Stripe-Signature``."""
        body, moment = json.dumps(event).encode(), int(self.clock() if at is None else at)
        signature = hmac.new(secret.encode(), b"%d.%s" % (moment, body), hashlib.sha256).hexdigest()
        return body, f"t={moment},v1={signature}"

    def handle(self, method: str, path: str, text: str, headers: Any) -> Answer | None:
        """The answer to one request, or None to hang up."""
        with self.lock:
            self.calls.append((method, path))
            fault = next((one for one in self.faults if re.search(one.path, path) and method != "GET"), None)
            if fault is not None:
                self.faults.remove(fault)
            if fault is not None and fault.how == "deaf":
                return None
            if fault is not None and fault.how == "busy":
                return 429, {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many"}}
            if headers.get("Authorization") != f"Bearer {API_KEY}":
                return 401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
            answer = self._once(method, path, text, headers.get("Idempotency-Key"), fault)
            return None if fault is not None and fault.how == "cut" else answer

    def _once(self, method: str, path: str, text: str, key: str | None, fault: Fault | None) -> Answer:
        print_of = f"{method} {path} {text}"
        if key in self.keys and method != "GET":
            before, answer = self.keys[key]
            if before == print_of:
                return answer
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with."
            )
            return 400, {"error": {"type": "idempotency_error", "message": message}}
        answer, kept = self._act(method, path, unflatten(text), fault)
        if key and kept and method != "GET":
            self.keys[key] = (print_of, answer)
        return answer

    def _act(self, method: str, path: str, params: Thing, fault: Fault | None) -> tuple[Answer, bool]:
        """The answer, and whether it stays under its key: what was refused before it began does not."""
        broken: Answer = (500, {"error": {"type": "api_error", "message": "An unknown error occurred"}})
        try:
            action, shape, ids = find_route(method, path)
            check_params(shape, params)
        except Refusal as refusal:
            return (refusal.status, refusal.body), False
        if fault is not None and fault.how == "before":
            return broken, True
        try:
            made = copy.deepcopy(action(self, params, *ids))
        except Refusal as refusal:
            return (refusal.status, refusal.body), True
        return (broken if fault is not None and fault.how == "after" else (200, made)), True

    def new(self, kind: str, prefix: str, **values: Any) -> Thing:
        """A thing with an id of its own."""
        thing = {"id": f"{prefix}_{next(self._ids):014d}", "object": kind, "created": int(self.clock()), **values}
        thing.setdefault("metadata", {})
        self.things[thing["id"]] = thing
        return thing

    def get(self, kind: str, stripe_id: str) -> Thing:
        """The thing. Raises the refusal that Stripe gives for an unknown id."""
        thing = self.things.get(stripe_id)
        if thing is None or thing["object"] != kind:
            raise Refusal(f"No such {kind}: '{stripe_id}'", status=404, code="resource_missing", param="id")
        return thing

    def tell(self, event_type: str, thing: Thing) -> None:
        """Make an event, and deliver it where there is a hook."""
        event = {
            "id": f"evt_{next(self._ids):014d}",
            "object": "event",
            "type": event_type,
            "created": int(self.clock()),
            "api_version": "2026-09-30",
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "data": {"object": copy.deepcopy(thing)},
        }
        self.events.append(event)
        if self.hook is not None:
            threading.Thread(target=self._deliver, args=(event, *self.hook), daemon=True).start()

    def _deliver(self, event: Thing, url: str, secret: str) -> None:
        body, signature = self.signed(event, secret=secret)
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10).close()
        except urllib.error.URLError as error:
            logger.warning("webhook %s: %s", event["type"], error)


def create_customer(stripe: FakeStripe, params: Thing) -> Thing:
    return stripe.new("customer", "cus", **params)


def update_customer(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    customer = stripe.get("customer", stripe_id)
    customer.update(params)
    return customer


def create_invoice(stripe: FakeStripe, params: Thing) -> Thing:
    stripe.get("customer", params.get("customer", ""))
    if params.get("collection_method") == "send_invoice":
        if not {"due_date", "days_until_due"} & params.keys():
            raise Refusal("You must pass one of `due_date` or `days_until_due`.", param="due_date")
        if int(params.get("due_date", stripe.clock() + 1)) <= stripe.clock():
            raise Refusal("The due date must be in the future.", param="due_date")
    number = params.get("number")
    if number and any(invoice["number"] == number for invoice in stripe.of("invoice")):
        raise Refusal(f"The number {number} is taken.", param="number")
    values = {"number": None, "currency": "usd", **params, "status": "draft", "total": 0, "amount_remaining": 0}
    invoice = stripe.new("invoice", "in", **values)
    stripe.tell("invoice.created", invoice)
    return invoice


def create_item(stripe: FakeStripe, params: Thing) -> Thing:
    customer = stripe.get("customer", params.get("customer", ""))
    invoice = stripe.get("invoice", params["invoice"])
    if invoice["status"] != "draft" or invoice["customer"] != customer["id"]:
        raise Refusal("You can't add items to this invoice.", code="invoice_not_editable", param="invoice")
    if invoice["currency"] != params["currency"]:
        raise Refusal("The currencies of the invoice and the item differ.", param="currency")
    if params["currency"] in ("bhd", "jod", "kwd", "omr", "tnd") and int(params["amount"]) % 10:
        raise Refusal("Three-decimal amounts end in a zero.", param="amount")
    if int(params["period"]["end"]) < int(params["period"]["start"]):
        raise Refusal("The period ends before it starts.", param="period")
    item = stripe.new("invoiceitem", "ii", **{**params, "amount": int(params["amount"])})
    invoice["total"] = invoice["amount_remaining"] = sum(one["amount"] for one in items_of(stripe, invoice))
    return item


def items_of(stripe: FakeStripe, invoice: Thing) -> list[Thing]:
    return [item for item in stripe.of("invoiceitem") if item["invoice"] == invoice["id"]]


def moved(stripe: FakeStripe, stripe_id: str, to: str, event: str, *allowed: str) -> Thing:
    invoice = stripe.get("invoice", stripe_id)
    if invoice["status"] not in allowed:
        raise Refusal(f"This invoice is {invoice['status']}.", code="invoice_not_editable")
    invoice["status"] = to
    stripe.tell(event, invoice)
    return invoice


def finalise(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    invoice = moved(stripe, stripe_id, "open", "invoice.finalized", "draft")
    invoice["number"] = invoice["number"] or f"FAKE-{next(stripe._ids):04d}"
    invoice["hosted_invoice_url"] = f"{stripe.url}/i/{stripe_id}"
    return pay(stripe, {}, stripe_id) if invoice["total"] == 0 else invoice


def send(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    return moved(stripe, stripe_id, "open", "invoice.sent", "open")


def pay(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    invoice = moved(stripe, stripe_id, "paid", "invoice.paid", "open", "uncollectible")
    invoice["amount_remaining"] = 0
    return invoice


def void(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    return moved(stripe, stripe_id, "void", "invoice.voided", "open", "uncollectible")


def mark_uncollectible(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    return moved(stripe, stripe_id, "uncollectible", "invoice.marked_uncollectible", "open")


def delete_draft(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    invoice = stripe.get("invoice", stripe_id)
    if invoice["status"] != "draft":
        raise Refusal("You can only delete draft invoices.", code="invoice_not_editable")
    for gone in (invoice, *items_of(stripe, invoice)):
        del stripe.things[gone["id"]]
    return {"id": stripe_id, "object": "invoice", "deleted": True}


def create_credit_note(stripe: FakeStripe, params: Thing) -> Thing:
    invoice, amount = stripe.get("invoice", params["invoice"]), int(params["amount"])
    given = sum(note["amount"] for note in stripe.of("credit_note") if note["invoice"] == invoice["id"])
    if invoice["status"] not in ("open", "paid") or given + amount > invoice["total"]:
        raise Refusal("This invoice can't be credited by that amount.", param="amount")
    if (invoice["status"] == "paid") != ("credit_amount" in params):
        raise Refusal("The sum of credits and refunds must equal the amount of a paid invoice.", param="credit_amount")
    return stripe.new("credit_note", "cn", **{**params, "amount": amount})


def retrieve_invoice(stripe: FakeStripe, params: Thing, stripe_id: str) -> Thing:
    return stripe.get("invoice", stripe_id)


LISTED_AT = {name.rstrip("s"): f"/v1/{name}" for name in ("customers", "invoices", "invoiceitems", "credit_notes")}


def lister(kind: str) -> Callable[[FakeStripe, Thing], Thing]:
    """A list of the kind: newest first, in pages."""

    def listed(stripe: FakeStripe, params: Thing) -> Thing:
        since, size = int(params.get("created", {}).get("gte", 0)), int(params.get("limit", 10))
        found = [thing for thing in reversed(stripe.of(kind)) if thing["created"] >= since]
        found = [thing for thing in found if thing.get("invoice") == params.get("invoice", thing.get("invoice"))]
        ids = [thing["id"] for thing in found]
        first = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        page = found[first : first + size]
        return {"object": "list", "url": LISTED_AT[kind], "has_more": len(found) > first + size, "data": page}

    return listed


Action = Callable[..., Thing]
ROUTES: list[tuple[str, str, str, Action]] = [
    ("POST", "/v1/customers", "CustomerCreateParams", create_customer),
    ("POST", "/v1/customers/ID", "CustomerUpdateParams", update_customer),
    ("GET", "/v1/customers", "CustomerListParams", lister("customer")),
    ("POST", "/v1/invoices", "InvoiceCreateParams", create_invoice),
    ("GET", "/v1/invoices", "InvoiceListParams", lister("invoice")),
    ("GET", "/v1/invoices/ID", "InvoiceRetrieveParams", retrieve_invoice),
    ("DELETE", "/v1/invoices/ID", "InvoiceDeleteParams", delete_draft),
    ("POST", "/v1/invoices/ID/finalize", "InvoiceFinalizeInvoiceParams", finalise),
    ("POST", "/v1/invoices/ID/send", "InvoiceSendInvoiceParams", send),
    ("POST", "/v1/invoices/ID/pay", "InvoicePayParams", pay),
    ("POST", "/v1/invoices/ID/void", "InvoiceVoidInvoiceParams", void),
    ("POST", "/v1/invoices/ID/mark_uncollectible", "InvoiceMarkUncollectibleParams", mark_uncollectible),
    ("POST", "/v1/invoiceitems", "InvoiceItemCreateParams", create_item),
    ("GET", "/v1/invoiceitems", "InvoiceItemListParams", lister("invoiceitem")),
    ("POST", "/v1/credit_notes", "CreditNoteCreateParams", create_credit_note),
    ("GET", "/v1/credit_notes", "CreditNoteListParams", lister("credit_note")),
]


def find_route(method: str, path: str) -> tuple[Action, str, tuple[str, ...]]:
    """What serves the request: the action, the name of its parameters' type, and the ids in its path."""
    for known, template, shape, action in ROUTES:
        match = re.fullmatch(template.replace("ID", r"(\w+)"), path)
        if match and known == method:
            return action, shape, match.groups()
    raise Refusal(f"Unrecognized request URL ({method}: {path}).", status=404)


@contextmanager
def fake_stripe(port: int = 0, clock: Callable[[], float] = time.time) -> Iterator[FakeStripe]:
    """A server on this port (0: a free one) until the end of the block."""
    stripe = FakeStripe(clock)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            address = urllib.parse.urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode() or address.query
            answer = stripe.handle(self.command, address.path, text, self.headers)
            if answer is None:
                self.close_connection = True
                return
            status, thing = answer
            body = json.dumps(thing).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    stripe.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stripe
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until interrupted, and print each call."""
    parser = argparse.ArgumentParser(description="A fake Stripe to try gpufleet with.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--webhook", help="where to send signed events")
    arguments = parser.parse_args()
    with fake_stripe(arguments.port) as stripe:
        if arguments.webhook:
            stripe.hook = (arguments.webhook, SECRET)
        logger.info("STRIPE_API_BASE=%s STRIPE_API_KEY=%s STRIPE_WEBHOOK_SECRET=%s", stripe.url, API_KEY, SECRET)
        shown = 0
        while True:
            time.sleep(0.2)
            for method, path in stripe.calls[shown:]:
                logger.info("%s %s", method, path)
            shown = len(stripe.calls)


if __name__ == "__main__":
    main()
