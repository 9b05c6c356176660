"""What is delivered and by which rules. Pure: no I/O, no clock, no randomness, no framework."""
