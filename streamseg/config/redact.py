"""Addresses without what is secret in them, for logs, messages and errors."""

from __future__ import annotations

import re

# Greedy up to the last '@' before the query, because people paste passwords with '@', '/' and ':' in them
# without escaping. A URL with a port and an '@' in its path is hidden too much rather than too little.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:@?]*):[^\s?]*@")
# A password with a '?' in it ends the authority for a URL parser, but not for the person who typed it.
_USERINFO_QUERY = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:@?/]*):(?!\d+[/?])[^\s]*@")
_SECRET = re.compile(
    r"(?P<name>[?&;#][^=&;#\s]*(?:token|passw|pwd|pass|secret|key|auth|sig|credential|session)[^=&;#\s]*=)[^&;#\s]*",
    re.IGNORECASE,
)


def redact(url: str) -> str:
    """Return the text with passwords and the values of secret query parameters replaced by ***."""
    url = _USERINFO.sub(r"\g<scheme>\g<user>:***@", url)
    url = _USERINFO_QUERY.sub(r"\g<scheme>\g<user>:***@", url)
    return _SECRET.sub(r"\g<name>***", url)
