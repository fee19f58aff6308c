"""How many devices one coordinator holds and how fast it serves them; see ``docs/coordinator.md``."""
