"""``python -m delivery``: the same as the ``delivery`` command."""

from __future__ import annotations

from delivery.cli import main

if __name__ == "__main__":
    main(prog_name="delivery")
