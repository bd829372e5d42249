"""Grammars that bind what a model writes: JSON schemas as GBNF."""
