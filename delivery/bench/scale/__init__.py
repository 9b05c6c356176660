"""What a connection and an event cost as their numbers grow; ``delivery bench scale``.

Owns: its parts, each on servers and gateways of its own. Figures of processor time and memory hold
on a machine that does other work, too; times do not.
"""
