"""What operators ask the ledger: a search of all events, figures over time, messages as sent."""
