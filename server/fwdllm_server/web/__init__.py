"""The coordinator's HTTP servers: metrics for Prometheus, and the dashboard."""
