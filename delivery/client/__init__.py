"""Who calls us: the listening client, the remote emitter and their blocking twins."""
