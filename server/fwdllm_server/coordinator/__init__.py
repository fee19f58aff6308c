"""The running coordinator: jobs, leases, peers and health on one runtime."""
