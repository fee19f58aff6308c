"""``make bench-device``: what a directional derivative costs beside inference and backpropagation."""
