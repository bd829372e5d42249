"""The JSON shapes of the APIs, and how they become bytes."""
