"""Privacy: accuracy against the budget, membership inference, and what secure aggregation costs beside Flower's."""
