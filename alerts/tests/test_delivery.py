"""The outbox against real receivers: HTTP servers with good and bad manners, and a real mail server."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from alerts import services
from alerts.models import AlertRule, Channel, Delivery
from alerts.notifiers import NotDelivered, http
from alerts.notifiers.http import post
from alerts.services import outbox as outbox_module
from alerts.services.outbox import LEASE, MOST_ATTEMPTS, wait_after
from alerts.tests.factories import MINUTE, NOW, SECRET, make_channel, make_rule
from alerts.tests.receivers import (
    Manners,
    Receiver,
    answer,
    hang,
    lie,
    ok,
    receiver,
    redirect_to,
    trickle,
)
from clusters.tests.factories import make_gpu, make_node
from jobs.models import Allocation
from jobs.tests.factories import make_job
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

REFUSED = "HTTP/1.1 404 Not Found\r\n\r\n"
BROKEN = "HTTP/1.1 500 Internal Server Error\r\n\r\n"


@pytest.fixture(autouse=True)
def loopback_is_meant(settings: Any) -> None:
    settings.ALERT_WEBHOOK_ALLOW = ["127.0.0.1"]
    AlertRule.objects.all().delete()


@pytest.fixture
def listening() -> Iterator[Receiver]:
    with receiver() as here:
        yield here


def raise_alarm() -> None:
    """Alice's tenant holds all of its quota."""
    tenant = make_tenant(gpu_quota=1)
    gpu = make_gpu(make_node())
    job = make_job(cluster=gpu.node.cluster, tenant=tenant, status="running")
    Allocation.objects.create(job=job, gpu=gpu, tenant=tenant, during=(NOW - 30 * MINUTE, None))
    make_rule(severity="critical")
    services.evaluate_rules(now=NOW)


def calm(now: Any = NOW + MINUTE) -> None:
    Allocation.objects.all().delete()
    services.evaluate_rules(now=now)


def outbox() -> list[tuple[str, str, int]]:
    return list(Delivery.objects.order_by("pk").values_list("channel__name", "status", "attempts"))


def test_a_webhook_is_signed_as_the_standard_says(listening: Receiver) -> None:
    make_channel(target=listening.url)
    raise_alarm()
    assert services.deliver_due(now=NOW) == 1
    request = listening.received[0]
    assert request.head.startswith("POST /hook?to=ops HTTP/1.1")
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert headers["webhook-id"] == f"msg_{Delivery.objects.get().uid}"
    body = json.loads(request.body)
    assert (body["type"], body["data"]["severity"]) == ("alert.firing", "critical")
    assert outbox() == [("on call", "sent", 1)]
    assert services.deliver_due(now=NOW) == 0


def test_slack_reads_a_header_and_a_section(listening: Receiver) -> None:
    make_channel(kind="slack", target=listening.url)
    raise_alarm()
    services.deliver_due(now=NOW)
    body = json.loads(listening.received[0].body)
    assert body["text"] == "[FIRING] critical: rule"
    assert [block["type"] for block in body["blocks"]] == ["header", "section"]
    assert "tenant acme holds 100 % of its GPU quota" in body["blocks"][1]["text"]["text"]


def test_pagerduty_resolves_what_it_triggered(listening: Receiver) -> None:
    make_channel(kind="pagerduty", target=listening.url, secret="R0UT1NG")
    raise_alarm()
    services.deliver_due(now=NOW)
    calm()
    services.deliver_due(now=NOW + MINUTE)
    first, second = (json.loads(request.body) for request in listening.received)
    assert (first["event_action"], second["event_action"]) == ("trigger", "resolve")
    assert first["dedup_key"] == second["dedup_key"]
    assert first["routing_key"] == "R0UT1NG"
    assert first["payload"]["severity"] == "critical"
    assert first["payload"]["summary"].startswith("rule: tenant acme holds 100 %")


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.verdict = "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.verdict.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.verdict

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def mailbox(settings: Any) -> Iterator[Mailbox]:
    box = Mailbox()
    with receiver() as free:
        port = free.port
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    try:
        yield box
    finally:
        server.stop()


def test_a_mail_goes_to_all_addresses_with_an_id_to_know_it_by(mailbox: Mailbox) -> None:
    make_channel(kind="email", target="eve@example.com,mallory@example.com")
    raise_alarm()
    assert services.deliver_due(now=NOW) == 1
    mail = mailbox.mails[0]
    assert mail.rcpt_tos == ["eve@example.com", "mallory@example.com"]
    text = mail.content.decode()
    assert "Subject: [FIRING] critical: rule" in text
    assert f"Message-ID: <{Delivery.objects.get().uid}@gpufleet>" in text
    assert "tenant acme holds 100 % of its GPU quota" in text.replace("=\r\n", "")


@pytest.mark.parametrize(("verdict", "status"), [("550 no such user", "dead"), ("451 later", "pending")])
def test_a_mail_server_may_refuse_for_good_or_for_now(mailbox: Mailbox, verdict: str, status: str) -> None:
    mailbox.verdict = verdict
    make_channel(kind="email", target="eve@example.com")
    raise_alarm()
    services.deliver_due(now=NOW)
    assert outbox() == [("on call", status, 1)]
    assert verdict[:3] in Delivery.objects.get().last_error


def test_without_a_mail_server_it_waits_and_says_why(settings: Any) -> None:
    settings.EMAIL_HOST = None
    make_channel(kind="email", target="eve@example.com")
    raise_alarm()
    services.deliver_due(now=NOW)
    assert outbox() == [("on call", "pending", 1)]
    assert "EMAIL_URL" in Delivery.objects.get().last_error


def test_a_receiver_that_fails_is_tried_again_later_and_later_with_one_id_until_it_is_dead() -> None:
    with receiver(answer(BROKEN)) as broken:
        make_channel(target=broken.url)
        raise_alarm()
        at = NOW
        for attempt in range(1, MOST_ATTEMPTS + 1):
            assert services.deliver_due(now=at) == 0
            assert services.deliver_due(now=at + wait_after(attempt) - timedelta(seconds=1)) == 0
            at += wait_after(attempt)
        assert outbox() == [("on call", "dead", MOST_ATTEMPTS)]
        assert "500" in Delivery.objects.get().last_error
        assert len(broken.received) == MOST_ATTEMPTS
        assert len({request.headers["webhook-id"] for request in broken.received}) == 1
        assert services.deliver_due(now=at + timedelta(days=9)) == 0


def test_the_waits_double_up_to_two_hours_and_span_a_day() -> None:
    assert [wait_after(tries) / MINUTE for tries in (1, 2, 3, 4, 8, 9, 10, 99)] == [0.5, 1, 2, 4, 64, 120, 120, 120]
    assert timedelta(days=0.9) < sum(map(wait_after, range(1, MOST_ATTEMPTS)), timedelta()) < timedelta(days=1.1)


def of_another_rule() -> Delivery:
    """A second message of the channel, whose order against the first one is of no matter."""
    first = Delivery.objects.get()
    rule = make_rule(name="another")
    return Delivery.objects.create(
        channel=first.channel, rule=rule, kind="firing", body=first.body, next_attempt_at=NOW, created_at=NOW
    )


def test_a_channel_has_one_message_in_hand(listening: Receiver) -> None:
    make_channel(target=listening.url)
    raise_alarm()
    of_another_rule()
    first = Delivery.objects.order_by("pk")[0]
    Delivery.objects.filter(pk=first.pk).update(leased_until=NOW + LEASE, next_attempt_at=NOW + LEASE)
    assert services.deliver_due(now=NOW) == 0
    assert services.deliver_due(now=NOW + LEASE) == 2


def test_a_channel_that_failed_is_left_alone_for_the_rest_of_the_run() -> None:
    with receiver(answer(BROKEN)) as broken:
        make_channel(target=broken.url)
        raise_alarm()
        of_another_rule()
        services.deliver_due(now=NOW)
        assert len(broken.received) == 1


def test_a_dead_letter_is_tried_again_on_a_persons_word(listening: Receiver) -> None:
    make_channel(target=listening.url)
    raise_alarm()
    Delivery.objects.update(status="dead", attempts=MOST_ATTEMPTS)
    assert services.deliver_due(now=NOW) == 0
    assert services.retry_deliveries(delivery_ids=[Delivery.objects.get().pk], now=NOW) == 1
    assert outbox() == [("on call", "pending", 0)]
    assert services.deliver_due(now=NOW) == 1


@pytest.mark.parametrize(
    ("answered", "status"),
    [
        (REFUSED, "dead"),
        (BROKEN, "pending"),
        ("HTTP/1.1 429 Slow Down\r\n\r\n", "pending"),
        ("HTTP/1.1 201 Created\r\n\r\n", "sent"),
        ("nonsense\r\n\r\n", "pending"),
        ("", "pending"),
    ],
)
def test_what_an_answer_means(answered: str, status: str) -> None:
    with receiver(answer(answered)) as there:
        make_channel(target=there.url)
        raise_alarm()
        services.deliver_due(now=NOW)
    assert Delivery.objects.get().status == status


def test_a_redirect_is_not_followed_not_even_to_ourselves(listening: Receiver) -> None:
    with receiver(redirect_to(listening.url)) as elsewhere:
        make_channel(target=elsewhere.url)
        raise_alarm()
        services.deliver_due(now=NOW)
        assert len(elsewhere.received) == 1
    assert listening.received == []
    assert outbox() == [("on call", "dead", 1)]
    assert "redirects" in Delivery.objects.get().last_error


def test_a_target_that_is_forbidden_by_the_time_of_sending_is_not_spoken_to(listening: Receiver, settings: Any) -> None:
    settings.ALERT_WEBHOOK_ALLOW = []
    make_channel(target=listening.url)
    raise_alarm()
    services.deliver_due(now=NOW)
    assert listening.received == []
    assert outbox() == [("on call", "dead", 1)]


@pytest.mark.parametrize("manners", [hang, trickle])
def test_who_does_not_answer_in_time_is_cut_off(manners: Manners) -> None:
    with receiver(manners) as slow:
        began = time.monotonic()
        with pytest.raises(NotDelivered, match=r"No answer within 0\.3 s"):
            post(slow.url, b"{}", {}, allowed=["127.0.0.1"], limit_s=0.3)
        assert time.monotonic() - began < 5


def test_who_lies_about_the_length_of_the_answer_is_not_listened_to() -> None:
    with receiver(lie) as liar:
        began = time.monotonic()
        post(liar.url, b"{}", {}, allowed=["127.0.0.1"])
        assert time.monotonic() - began < 5


def test_receivers_that_hang_fail_redirect_and_lie_delay_nobody_else(
    listening: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty messages to a good receiver arrive while four bad ones are still being waited for."""
    arrived_while_hanging: list[int] = []

    def hang_and_look(connection: Any, closing: Any) -> None:
        deadline = time.monotonic() + 20
        while len(listening.received) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        arrived_while_hanging.append(len(listening.received))
        closing.wait()

    monkeypatch.setattr(http._Exchange, "post", _within(3.0, http._Exchange.post))
    with (
        receiver(hang_and_look) as hanging,
        receiver(answer(BROKEN)) as broken,
        receiver(redirect_to("http://127.0.0.1:1/")) as redirecting,
        receiver(lie) as lying,
    ):
        for name, there in [("a", hanging), ("b", broken), ("c", redirecting), ("d", lying), ("e", listening)]:
            make_channel(name, target=there.url)
        raise_alarm()
        good = Delivery.objects.get(channel__name="e")
        for _ in range(39):
            Delivery.objects.create(
                channel=good.channel, rule=good.rule, kind="firing", body=good.body, next_attempt_at=NOW, created_at=NOW
            )
        services.deliver_due(now=NOW)
    assert arrived_while_hanging == [40]
    assert dict(Delivery.objects.exclude(channel__name="e").values_list("channel__name", "status")) == {
        "a": "pending",
        "b": "pending",
        "c": "dead",
        "d": "sent",
    }
    assert Delivery.objects.filter(channel__name="e", status="sent").count() == 40


def _within(seconds: float, genuine: Any) -> Any:
    """The same exchange, with less patience."""

    def post_soon(exchange: Any, body: bytes, headers: Any) -> int:
        exchange.limit_s = seconds
        status: int = genuine(exchange, body, headers)
        return status

    return post_soon


def test_a_run_takes_nothing_new_when_it_has_lasted_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leases are made of the instant at which it began, and so are its signatures."""

    def slowly(connection: Any, closing: Any) -> None:
        time.sleep(0.3)
        ok(connection, closing)

    monkeypatch.setattr(outbox_module, "LONGEST_RUN_S", 0.2)
    with receiver(slowly) as slow:
        make_channel(target=slow.url)
        raise_alarm()
        first = Delivery.objects.get()
        for _ in range(2):
            Delivery.objects.create(
                channel=first.channel,
                rule=first.rule,
                kind="firing",
                body=first.body,
                next_attempt_at=NOW,
                created_at=NOW,
            )
        assert [services.deliver_due(now=NOW) for _ in range(4)] == [1, 1, 1, 0]


def test_within_a_channel_the_end_never_overtakes_the_beginning(listening: Receiver) -> None:
    channel = make_channel(target="http://127.0.0.1:1/")
    raise_alarm()
    services.deliver_due(now=NOW)
    calm()
    Channel.objects.filter(pk=channel.pk).update(target=listening.url)
    services.deliver_due(now=NOW + timedelta(seconds=5))
    assert listening.received == []
    services.deliver_due(now=NOW + MINUTE)
    assert [json.loads(request.body)["type"] for request in listening.received] == ["alert.firing", "alert.resolved"]


def test_what_a_killed_sender_had_in_hand_is_sent_when_its_lease_ends(listening: Receiver) -> None:
    make_channel(target=listening.url)
    raise_alarm()
    Delivery.objects.update(attempts=1, leased_until=NOW + LEASE, next_attempt_at=NOW + LEASE)
    assert services.deliver_due(now=NOW + LEASE - timedelta(seconds=1)) == 0
    assert services.deliver_due(now=NOW + LEASE) == 1


def test_a_disabled_channel_keeps_its_messages(listening: Receiver) -> None:
    make_channel(target=listening.url)
    raise_alarm()
    Channel.objects.update(enabled=False)
    assert services.deliver_due(now=NOW) == 0
    Channel.objects.update(enabled=True)
    assert services.deliver_due(now=NOW) == 1


def test_a_well_behaved_receiver_needs_no_exception() -> None:
    with receiver(ok) as there:
        post(there.url, b"{}", {"Content-Type": "application/json"}, allowed=["127.0.0.1"])
        assert there.received[0].headers["content-length"] == "2"
