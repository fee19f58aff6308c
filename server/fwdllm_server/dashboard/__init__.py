"""The dashboard: a live, read-only web page about the coordinator, without resources from other sites."""
