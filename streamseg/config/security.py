"""Which endpoints other machines can reach, and what must then be set."""

from __future__ import annotations

import ipaddress


def access_problems(
    section: str, endpoints: dict[str, str], *, secret_key_file: str, allowed_clients: str, insecure: bool
) -> list[str]:
    """What is wrong with access to a section's endpoints, a line each; endpoints by setting."""
    way_out = (
        f"set {section}.curve_secret_key_file and {section}.allowed_clients (streamseg keygen makes the "
        f"keys), bind 127.0.0.1 or ipc://, or write {section}.insecure = true"
    )
    problems = []
    if secret_key_file and not allowed_clients:
        problems.append(
            f"{section}.allowed_clients: is missing; name the file or folder of the allowed public keys"
        )
    if allowed_clients and not secret_key_file:
        problems.append(
            f"{section}.curve_secret_key_file: is missing; without it no client can be identified "
            "(streamseg keygen --out NAME makes one)"
        )
    if not secret_key_file and not insecure:
        problems += [
            f"{section}.{name}: {endpoint} is reachable from other machines without authentication; {way_out}"
            for name, endpoint in endpoints.items()
            if not is_local(endpoint)
        ]
    return problems


def is_local(endpoint: str) -> bool:
    """Whether only this machine can connect: ipc, or tcp on a loopback address or interface."""
    if not endpoint.startswith("tcp://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]").partition("%")[0]
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
