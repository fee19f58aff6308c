"""``make bench-idle``: what an agent without work costs its device, by the byte and in memory."""
