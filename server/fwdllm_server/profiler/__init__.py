"""Profiler: ranks PEFT methods by the example-passes that forward gradients need, before a job is submitted.

It works offline, on the held-out rows. Only here are gradients computed by backpropagation. ``docs/profiler.md``
derives the measurements and the ranking.
"""
