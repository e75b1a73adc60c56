"""ZeroMQ's sockets, by our own code: ZMTP, endpoints, keys, and the connection guard."""
