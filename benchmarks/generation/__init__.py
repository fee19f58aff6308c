"""Fine-tuning a model that generates: by scalars, and by backpropagation LoRA on the same rows."""
