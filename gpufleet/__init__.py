"""gpufleet: the control plane of a GPU cloud."""
