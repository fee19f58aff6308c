"""The way to the coordinator: identity, enrolment, calls, retries and the record of what was sent."""
