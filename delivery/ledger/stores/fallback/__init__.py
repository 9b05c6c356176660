"""The fallback chain in the ledger: due times and the sweep, claims and their fence, users' shares,
digests and alerts."""
