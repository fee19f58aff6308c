"""Accuracy with a fifth of the devices lying, by how they lie and what the job does against it."""
