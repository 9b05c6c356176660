"""What operators ask and do over HTTP: figures, sessions of the dashboard, access, erasure."""
