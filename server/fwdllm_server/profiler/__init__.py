"""Profiler: ranks PEFT methods by expected loss reduction per second of device time, before a job is submitted.

It works offline, on the held-out rows. Only here is a true gradient computed by backpropagation. ``docs/profiler.md``
derives the measurements and the ranking.
"""
