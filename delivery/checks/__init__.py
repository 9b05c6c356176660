"""The checks of ``delivery check``, one file per subject. They change nothing."""
