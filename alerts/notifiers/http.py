"""One POST to a stranger's server: to a checked address, within a time in all, and with nothing read but the status."""

import http.client
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from urllib.parse import SplitResult

from alerts.notifiers.addresses import Forbidden, checked_url, port_of, resolve
from alerts.notifiers.errors import NotDelivered, Refused

# From the first packet to the status line, whatever the other side does meanwhile.
LIMIT_S = 10.0
# These will say the same tomorrow; all others may not. 408 and 429 ask for another try.
FINAL = {400, 401, 403, 404, 405, 410, 413, 414, 415, 422}


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, allowed: Collection[str], limit_s: float = LIMIT_S
) -> None:
    """POST, and return once the receiver has said 2xx.

    Raises ``Refused`` for a target or an answer that is final, and ``NotDelivered`` for whatever may pass. A redirect
    is not followed: it is final.
    """
    try:
        parts = checked_url(url, allowed=allowed)
        status = _Exchange(parts, allowed, limit_s).post(body, headers)
    except Forbidden as error:
        raise Refused(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}"[:300]) from error
    if 300 <= status < 400:
        raise Refused(f"The receiver redirects ({status}), which is not followed.")
    if status in FINAL:
        raise Refused(f"The receiver answered {status}.")
    if not 200 <= status < 300:
        raise NotDelivered(f"The receiver answered {status}.")


class _Exchange:
    """A connection that is cut when its time is up, so that neither silence nor a trickle holds anything up."""

    def __init__(self, parts: SplitResult, allowed: Collection[str], limit_s: float) -> None:
        self.parts = parts
        self.allowed = allowed
        self.limit_s = limit_s
        self.late = False
        self.socket: socket.socket | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer; its body is not read, so that it can't lie about its length."""
        alarm = threading.Timer(self.limit_s, self._cut)
        alarm.daemon = True
        alarm.start()
        try:
            connection = http.client.HTTPConnection(self.parts.hostname or "", port_of(self.parts))
            connection.sock = self._connect()
            target = (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")
            connection.request("POST", target, body, {**headers, "Connection": "close"})
            status = connection.getresponse().status
            if self.late:  # Headers that were cut off look like headers that have ended.
                raise TimeoutError
            return status
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self.late or isinstance(error, TimeoutError):
                raise NotDelivered(f"No answer within {self.limit_s:g} s.") from error
            raise
        finally:
            alarm.cancel()
            if self.socket is not None:
                self.socket.close()

    def _connect(self) -> socket.socket:
        host, port = self.parts.hostname or "", port_of(self.parts)
        address = resolve(host, port, allowed=self.allowed)[0]
        self.socket = socket.create_connection((str(address), port), timeout=self.limit_s)
        if self.parts.scheme == "https":
            context = ssl.create_default_context()
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        if self.late:
            raise TimeoutError
        return self.socket

    def _cut(self) -> None:
        self.late = True
        if self.socket is not None:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # It is closed already.
