"""The connection to the coordinator: identity, enrolment, calls, retries and the log of what was sent."""
