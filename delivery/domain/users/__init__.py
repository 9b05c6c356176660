"""A user and the ways to one: addresses, agreements, receipts, revoked tokens. Pure."""
