"""A job on simulated devices: the coordinator's own rounds and store, the agent's own engine and data, no network."""
