"""Experiments with the product's mechanisms, from a checkout: ``python -m benchmarks.gains``.

Owns: comparisons that helped to decide how the product works. Never does: ship; what users run is
``delivery bench``.
"""
