"""The last mile: one adapter per vendor (mail, SMS, push, operators' alerts) and the local sinks.

Owns: calls of providers and the translation of their answers into ``delivery.errors``.
Never does: decide whether or when to send, touch the ledger, read settings.
"""
