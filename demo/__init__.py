"""The first five minutes: a small real model, and a server that answers with it."""
