"""What a program is to the operating system: its start, its limits, its end."""
