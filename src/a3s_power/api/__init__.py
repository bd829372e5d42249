"""HTTP: bytes in, typed values to the service, bytes out."""
