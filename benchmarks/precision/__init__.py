"""How well scalars survive quantised weights, and what these save."""
