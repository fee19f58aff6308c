"""Which PEFT method learns most in a second of device time: candidates measured before a job is submitted.

Offline, on the coordinator's own rows: here, and only here, a true gradient is computed by backpropagation.
``docs/profiler.md`` derives what is measured and how candidates are ranked.
"""
