"""1 ACCEPT: validate an event, record it, push it or hand it over."""
