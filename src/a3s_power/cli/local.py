"""The commands that work on this machine and its home folder rather than through a server: serve."""

from a3s_power.settings import Endpoint, Settings


def serve(host: str | None, port: int | None) -> None:
    """Serve until stopped. `host` reads like OLLAMA_HOST and replaces it; `port` replaces the port of either."""
    from a3s_power import server  # the whole server, which no other command loads

    endpoint = None if host is None else Endpoint.parse(host)
    server.serve(Settings.load(flags={"host": endpoint, "port": port}))
