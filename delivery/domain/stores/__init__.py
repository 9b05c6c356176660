"""The ledger's stores: one Protocol per question, and ``Ledger``, which names them all.

All of them are synchronous and thread-safe; the event loop uses the journal (writes, without
waiting) or a thread (reads) instead. Every call may raise ``LedgerUnavailable``.
"""
