"""What operators are told: figures over time, and why an event did not arrive. Pure."""
