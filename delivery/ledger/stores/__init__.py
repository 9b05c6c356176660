"""One file per question that the ledger answers."""
