"""OpenAI's API, as far as a local model can answer it."""
