"""How frameworks reach the emitter. None of them is imported here: each brings itself."""
