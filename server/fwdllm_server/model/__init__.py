"""Models: loading, PEFT, the layout of θ, the bundle that devices run and the adapter that users get.

Nothing is imported here: only who exports or loads a model needs torch, and it takes seconds and memory.
"""
