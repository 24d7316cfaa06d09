"""Which GPU models a job's ``gpu_type`` takes; the rule is in the package's text."""

VENDORS = ("nvidia ", "amd ", "intel ")


def preferences(gpu_type: str) -> tuple[str, ...]:
    """The entries of a preference list, in order; empty for any model."""
    return tuple(entry.strip() for entry in gpu_type.split("|") if entry.strip())


def matches(entry: str, model: str) -> bool:
    """Whether one entry of a preference list takes a model."""
    wanted, name = entry.casefold(), model.casefold()
    return any(_begins(wanted, candidate) for candidate in (name, _without_vendor(name)))


def takes(gpu_type: str, model: str) -> bool:
    """Whether a job with this preference list may run on this model."""
    entries = preferences(gpu_type)
    return not entries or any(matches(entry, model) for entry in entries)


def _begins(wanted: str, name: str) -> bool:
    return name.startswith(wanted) and not name[len(wanted) : len(wanted) + 1].isalnum()


def _without_vendor(name: str) -> str:
    for vendor in VENDORS:
        if name.startswith(vendor):
            return name[len(vendor) :]
    return name
