"""Prometheus metrics: counted in this process (``live``) and read from the store (``state``)."""
