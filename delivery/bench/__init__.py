"""The benchmark of ``delivery bench``.

Owns: the processes under load, the load, the floor to compare with, and the report. Each side is a
process of its own, so that its CPU time is counted apart. Never does: change what is measured.
"""
