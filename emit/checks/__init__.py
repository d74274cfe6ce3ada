"""The faults of a graph that show before a message runs. No I/O here."""
