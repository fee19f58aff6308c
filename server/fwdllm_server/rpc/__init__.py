"""The coordinator's three gRPC ports: devices, enrolment, operators."""
