"""The ledger's stores, one file each: the statements behind one store port."""
