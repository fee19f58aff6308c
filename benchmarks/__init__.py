"""Measurements of fwdllm and of what it is compared with; each module or package is one ``make bench-…`` command."""
