"""Tables, dialects, rows and transactions, which every store is built from."""
