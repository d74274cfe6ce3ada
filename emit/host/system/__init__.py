"""Programs as the operating system sees them: their start, their limits, their end."""
