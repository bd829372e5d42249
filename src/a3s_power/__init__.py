"""A3S Power: a local LLM server and model manager."""

__version__ = "0.1.0"
