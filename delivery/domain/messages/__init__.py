"""What messages show: the application's brand, and the conventions of an event's data. Pure."""
