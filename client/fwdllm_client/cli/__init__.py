"""The commands of ``fwdllm-client``."""
