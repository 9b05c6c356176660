"""Commands that run a process of the service until a signal ends it; and the migration."""
