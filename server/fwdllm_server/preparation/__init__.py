"""The preparation of a job: export, known-answer test, evaluation and adoption into the store."""
