"""What coordinator and device share: the numerical reference and the wire helpers (numpy and protobuf only)."""
