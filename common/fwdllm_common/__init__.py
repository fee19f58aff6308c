"""The numerical ground truth and the wire helpers that coordinator and device share (numpy and protobuf only)."""
