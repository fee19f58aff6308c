"""Files fetched from the coordinator: model bundles, weights and the quota on disk."""
