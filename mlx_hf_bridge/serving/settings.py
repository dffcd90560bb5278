"""How a server is reached: keys, origins, hosts."""

from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """What an app asks of requests before it reads them.

    Args:
        api_key: What clients must send as `Authorization: Bearer KEY`. Default: None, nothing.
        cors_origins: Origins whose pages may call the server. Default: none.
        allowed_hosts: Hosts that requests may name, which keeps other sites from calling a server on this machine by
            DNS rebinding; empty for any. Default: any.
        auto_truncate: Whether texts that are too long are truncated where a request does not say so. Default: False.
        telemetry: Whether requests are traced by OpenTelemetry. Default: False.
    """

    api_key: str | None = field(default=None, repr=False)
    cors_origins: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    auto_truncate: bool = False
    telemetry: bool = False

    def admits(self, authorization: str | None) -> bool:
        """Return whether a request may be answered.

        Args:
            authorization: The value of its Authorization header, or None.

        Returns:
            True without a key, or with the right one; takes as long for every wrong key.
        """
        if self.api_key is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # Digests have one length, so that the comparison does not tell the key's.
        same = compare_digest(_digest(given.strip()), _digest(self.api_key))
        return same and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
