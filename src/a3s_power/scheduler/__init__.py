"""Which runner serves which request, and which models are loaded."""
