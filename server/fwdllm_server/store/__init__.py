"""Everything the coordinator must not forget."""
