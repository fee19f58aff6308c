"""The Python front door, which ``fwdllm`` shows: simulate a job, look at its curve, use and export its model."""
