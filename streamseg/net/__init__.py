"""ZeroMQ sockets: options, endpoints, keys, and the connection guard."""
