"""Push events at socket speed, know for each one whether its user got it, escalate the rest."""
