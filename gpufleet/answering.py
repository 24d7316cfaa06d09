"""Metric batches answered by the thread that committed them.

WSGI answers a request by returning, so a thread would wait with each batch for its group's commit, be woken, and find
the interpreter's lock taken: a fifth of what a small batch costs. granian hands a request to Python beside an object
that any thread may answer, and here it does. There is no public name for that, so granian is pinned and a test says
whether this still works; under another server a thread waits with each batch, and nothing else is different.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clusters.intake import Answer, Intake

# Batches that are not plain, or that their group declined: Django refuses or stores so many of them at once.
DECLINED_AT_ONCE = 4

Run = Callable[[Any, dict[str, Any]], Any]


def answer_from_any_thread(intake: Intake) -> None:
    """Have granian, if it is the server, leave the answers to batches to whoever stored them.

    Its access log is written when a request's thread ends, and a path's prefix taken off before; with either of them
    requests go the ordinary way.
    """
    server: Any = sys.modules.get("granian.server.mp")
    ordinary = getattr(server, "_wsgi_call_wrap", None)
    if ordinary is None:
        return

    def wrap(application: Any, options: dict[str, Any], access_log: Any = None) -> Run:
        if application is not intake or access_log or options.get("url_path_prefix"):
            run: Run = ordinary(application, options, access_log)
            return run
        return _runner(intake, ordinary(intake.application, options))

    server._wsgi_call_wrap = wrap


def _runner(intake: Intake, to_django: Run) -> Run:
    declined = ThreadPoolExecutor(DECLINED_AT_ONCE, thread_name_prefix="metric-declined")

    def run(request: Any, environ: dict[str, Any]) -> None:
        def then(answer: Answer | None) -> None:
            if answer is None:
                declined.submit(to_django, request, environ)
            else:
                request.response_bytes(202, *answer)

        if not intake.take(environ, then):
            to_django(request, environ)

    return run
