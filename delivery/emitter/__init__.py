"""Emitters: validate an event, record it, push it or hand it over."""
