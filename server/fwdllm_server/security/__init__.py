"""Access to the coordinator: its certificate authority and join tokens."""
