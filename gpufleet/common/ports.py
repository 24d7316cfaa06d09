"""Questions that a lower app asks and a higher one answers, so that imports go down only.

The lower app declares a port in its ``queries.py``; the higher app answers it once, in ``AppConfig.ready()``::

    workload: Port[Callable[[Iterable[int]], Mapping[int, Workload]]] = Port("clusters.workload")
    clusters.queries.workload.answer_with(jobs.queries.cluster_workload)
    workload.ask(ids)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Answer = TypeVar("Answer", bound=Callable[..., object])


class Port(Generic[Answer]):
    """One question. Asking it before somebody answers it is a mistake in the wiring and says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._answer: Answer | None = None

    def answer_with(self, answer: Answer) -> None:
        """Wire the answer. Raises ``RuntimeError`` when another one is wired already."""
        if self._answer is not None and self._answer is not answer:
            raise RuntimeError(f"port {self.name} is answered twice")
        self._answer = answer

    @contextmanager
    def stand_in(self, answer: Answer) -> Iterator[None]:
        """Let something else answer for a while: for tests of the asking side."""
        wired, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = wired

    @property
    def ask(self) -> Answer:
        """The answering function. Raises ``RuntimeError`` when nobody answers."""
        if self._answer is None:
            raise RuntimeError(f"nobody answers port {self.name}; is its app installed?")
        return self._answer
