"""PEFT methods: one file each, what they share, and the one function that applies them."""
