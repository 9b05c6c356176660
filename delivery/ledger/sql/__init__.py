"""Tables, dialects and rows: what every store is built from."""
