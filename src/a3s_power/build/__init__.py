"""Making models: from blobs, from other models."""
