"""Webhooks out: outcomes, the messages that tell them, and their attempts."""
