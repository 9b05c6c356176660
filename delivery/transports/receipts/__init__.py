"""Receipts of mail and SMS providers, one provider per file.

Owns: the check that a report is the provider's, and the translation of its words into
``ProviderReceipt``. Pure. Never does: read a request, fetch anything, write anything.
"""
