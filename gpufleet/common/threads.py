"""Threads that start when they are first needed."""

import threading
from collections.abc import Callable, Mapping


class LateThreads:
    """These works, by the names of their threads, so that their owner may be made before a fork."""

    def __init__(self, works: Mapping[str, Callable[[], None]]) -> None:
        self._works = works
        self._threads: dict[str, threading.Thread] = {}
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start them, unless they were started before."""
        if self._threads:
            return
        with self._starting:
            if not self._threads:
                threads = {
                    name: threading.Thread(target=work, name=name, daemon=True) for name, work in self._works.items()
                }
                for thread in threads.values():
                    thread.start()
                self._threads = threads

    def join(self, *names: str) -> None:
        """Wait until these have ended, or all of them; those that never started have."""
        for name in names or self._threads:
            if name in self._threads:
                self._threads[name].join()
