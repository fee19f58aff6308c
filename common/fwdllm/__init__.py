"""Namespace of the generated wire contract."""
