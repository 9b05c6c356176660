"""Group commit: what gathers on the loop is committed by one thread, or spooled."""
