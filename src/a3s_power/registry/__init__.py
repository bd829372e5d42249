"""OCI-style registries, as Ollama's clients speak with them: who asks, what is asked, how bytes travel."""
