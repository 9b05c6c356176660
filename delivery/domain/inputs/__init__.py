"""Text from outside: what is taken, what is replaced, what is refused. Pure."""
