"""What is delivered and by which rules. Pure: no I/O, no clock, no dice, no framework."""
