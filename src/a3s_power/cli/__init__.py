"""The command line: `a3s-power`. It talks to the server as any other client does, save for what is in `local`."""
