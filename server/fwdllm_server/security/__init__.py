"""Who may talk to the coordinator: its own certificate authority and join tokens."""
