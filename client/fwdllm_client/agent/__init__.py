"""The agent's loop: check in, work on assignments, report scalars."""
