"""``make bench-convergence``: accuracy against example-passes, beside the paper's recipe and backpropagation.

``docs/benchmarks.md`` says what is compared and how passes are counted. Every recipe is a line of :mod:`methods`, every
data set one of :mod:`tasks`.
"""
