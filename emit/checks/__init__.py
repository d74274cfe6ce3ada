"""What can be said against a graph before a message runs. No I/O here."""
