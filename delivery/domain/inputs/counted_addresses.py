"""What limits per address count under one name."""

from __future__ import annotations

import ipaddress


def counted_address(address: str) -> str:
    """The name under which limits count an IP address.

    A host with IPv6 has at least a /64 of its own and may call from any address of it, so these
    are counted as one. An IPv4 address inside an IPv6 one is that IPv4 address. Other texts are
    returned as they are. Source: RFC 7934, section 6; RFC 4291, section 2.5.5.2.
    """
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
