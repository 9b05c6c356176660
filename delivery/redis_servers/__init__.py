"""Redis servers, for the bus and for Celery's broker: how they are named, and left.

Owns: the URL of servers behind Sentinel, and the connections that leave a server which is not the
primary any more. Never does: publish, or store.
"""
