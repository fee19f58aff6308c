"""The agent on a device: it computes scalars on data that stays where it is."""
