"""Messages: what they show, and the providers that carry them. Pure."""
