"""Where a webhook may lead."""

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from alerts.notifiers.addresses import Forbidden, checked_url, resolve
from alerts.notifiers.errors import NotDelivered, Refused
from alerts.notifiers.http import post
from alerts.tests.receivers import receiver

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",  # noqa: S104  (nobody listens on it)
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "fec0::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
    "::127.0.0.1",
    # The same in forms that a resolver also takes.
    "2130706433",
    "0x7f000001",
    "127.1",
    "0177.0.0.1",
    "localhost",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_an_address_that_is_not_public_is_refused_in_every_form(host: str) -> None:
    with pytest.raises(NotDelivered):
        resolve(host, 443, allowed=[])


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:808:808"])
def test_a_public_address_is_taken(host: str) -> None:
    assert str(resolve(host, 443, allowed=[])[0]) == host


def test_one_bad_address_among_good_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(Forbidden):
        resolve("both.example", 443, allowed=[])


@pytest.mark.parametrize("allowed", [["10.0.0.0/8"], ["10.1.2.3"]])
def test_what_is_on_the_list_is_meant(allowed: list[str]) -> None:
    assert resolve("::ffff:10.1.2.3", 443, allowed=allowed)
    assert [str(address) for address in resolve("10.1.2.3", 443, allowed=allowed)] == ["10.1.2.3"]
    with pytest.raises(Forbidden):
        resolve("192.168.1.1", 443, allowed=allowed)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "https://",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com/#fragment",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: evil",
        "https://exämple.com/",
        "http://example.com/",
        "https://[::1/",
    ],
)
def test_a_url_is_https_and_plain(url: str) -> None:
    with pytest.raises(Forbidden):
        checked_url(url, allowed=[])


def test_plain_http_is_for_hosts_on_the_list() -> None:
    assert checked_url("http://hooks.internal:8080/x", allowed=["hooks.internal"]).port == 8080
    assert checked_url("http://10.1.2.3/x", allowed=["10.0.0.0/8"]).hostname == "10.1.2.3"


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name says one thing when it is looked up, and 127.0.0.1 from then on."""
    answers = ["8.8.8.8"]
    dialled: list[str] = []

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        ip = answers.pop() if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    def dial(address: tuple[str, int], **_: Any) -> socket.socket:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(NotDelivered):
        post("https://rebind.example/", b"{}", {}, allowed=[])
    assert dialled == ["8.8.8.8"]


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate of hooks.example and its key. Every name leads to this machine."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=hooks.example"]
    command += ["-addext", "subjectAltName=DNS:hooks.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    genuine = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *args, **kwargs: genuine("127.0.0.1", *args, **kwargs))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_https_wants_a_certificate_of_that_name_by_somebody_known(
    papers: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["hooks.example", "other.example"]
    with receiver(tls=papers) as there:
        urls = [f"https://{host}:{there.port}/" for host in hosts]
        with pytest.raises(NotDelivered, match="self-signed"):
            post(urls[0], b"{}", {}, allowed=hosts)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        with pytest.raises(NotDelivered, match=r"not valid for 'other\.example'"):
            post(urls[1], b"{}", {}, allowed=hosts)
        assert there.received == []
        post(urls[0], b"{}", {}, allowed=hosts)
        assert there.received[0].headers["host"] == f"hooks.example:{there.port}"


def test_a_name_that_leads_inside_by_the_time_of_sending_is_refused_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as inside:
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]
        )
        with pytest.raises(Refused, match="not a public address"):
            post(f"https://rebind.example:{inside.port}/", b"{}", {}, allowed=[])
        assert inside.received == []
