"""The parts of ONNX's format that a device reads, generated from protos/ by ``make protos``."""
