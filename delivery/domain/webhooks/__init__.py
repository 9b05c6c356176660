"""Webhooks out: which endpoints the application has, and what they are sent when."""
