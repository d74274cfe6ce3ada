"""One host for many processes: its half, and that of its clients."""
