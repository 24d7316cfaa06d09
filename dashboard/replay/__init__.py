"""A published trace, lived through by the real services on a virtual clock, beside other policies on the same trace."""
