"""gpufleet's node agent, command line and client. Python 3.9 or newer, and nothing beside it but NVML's bindings."""

__version__ = "0.1.0"
