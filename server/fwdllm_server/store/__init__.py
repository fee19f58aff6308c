"""The persistent state of the coordinator: tables, queries and artifacts."""
