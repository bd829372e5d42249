"""The official clients as strict readers: every method they have, against a real server with real models."""
