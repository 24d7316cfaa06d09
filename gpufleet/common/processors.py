"""Processes that keep to one processor each."""

import os
import socket
import sys
from typing import Final

# Held until the process ends, however it ends; a name of this kind (https://man7.org/linux/man-pages/man7/unix.7.html,
# "abstract") is no file, so nothing is left behind.
_claims: Final[list[socket.socket]] = []


def keep_to_one() -> int | None:
    """Bind this thread, and those that it starts from now on, to a processor that no process has which called this.

    Returns its number, or None where all are taken or the system does not let it, and nothing changes. Containers do
    not see each other's processes: of two on one machine, both take the first processor.
    """
    if sys.platform != "linux":
        return None
    for number in sorted(os.sched_getaffinity(0)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0gpufleet-processor-{number}")
            os.sched_setaffinity(0, {number})
        except OSError:  # Somebody has it, or this process may not choose.
            claim.close()
            continue
        _claims.append(claim)
        return number
    return None
