"""Local data: rows from a file, tokenised once; nothing of it ever leaves the device."""

from fwdllm_client.data.dataset import Dataset
from fwdllm_client.data.source import DataSource, Row, labels_in
from fwdllm_client.data.split import split

__all__ = ["DataSource", "Dataset", "Row", "labels_in", "split"]
