"""The compliance log: its rows, their keyed hashes, verification and pruning."""
