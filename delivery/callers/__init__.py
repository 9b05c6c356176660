"""Callers: who they are, what they may do, how often, and whether their token still holds."""
