"""What Prometheus is told: numbers counted as things happen (``live``) and numbers read from the store (``state``)."""
