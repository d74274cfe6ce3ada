"""The host: frames, sessions, processes, pools. It knows nothing of graphs."""
