"""What the ledger keeps about users: addresses, agreements, suppressions, inboxes, erasure."""
