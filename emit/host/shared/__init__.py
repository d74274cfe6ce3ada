"""One host for many processes: the server and its clients."""
