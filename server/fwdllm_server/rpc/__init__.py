"""The coordinator's three gRPC ports: for devices, enrolment and operators."""
