"""Read models of jobs, devices and history, for calls, dashboard, metrics and commands."""
