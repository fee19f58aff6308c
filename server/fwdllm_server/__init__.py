"""The coordinator: it hands out seeds, collects scalars and steps θ."""
