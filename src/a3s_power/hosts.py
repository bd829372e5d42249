"""Where a host is, as far as its name or address tells."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether `127.0.0.1`, `::1`, `localhost` or `app.localhost` is meant: this machine, and nobody else's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
