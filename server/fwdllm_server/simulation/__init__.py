"""Simulation of a job: the coordinator's rounds and store, the agent's engine and data, no network."""
