"""The host half: frames, sessions, processes, pools. It knows nothing of graphs."""
