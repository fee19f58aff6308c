"""What the coordinator shows over HTTP: metrics for Prometheus, a dashboard for people."""
