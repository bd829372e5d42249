"""Engines: one process for each loaded model, and what can be asked of it."""
