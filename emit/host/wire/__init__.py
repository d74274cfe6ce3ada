"""The exchange with a program, as bytes and frames. No I/O in this folder."""
