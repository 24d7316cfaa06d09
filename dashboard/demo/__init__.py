"""The demo fleet: what it is made of, its two weeks of history, and the simulation that keeps it alive.

``catalog``, ``demand``, ``physics`` and ``incidents`` are pure; ``history`` calls services; ``client`` and ``live``
speak the public HTTP API and nothing else.
"""
