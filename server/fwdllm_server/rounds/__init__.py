"""The rounds' state machine: one file for each phase, one transaction for each transition (DESIGN §8)."""
