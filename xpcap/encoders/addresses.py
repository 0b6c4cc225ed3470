"""Which network addresses are public: those that a URL from anybody may lead to."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

NOT_PUBLIC = tuple(  # what Python 3.11's `is_global` lets pass, or tells differently from one version to another
    map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3"))  # protocols, 6to4 relays, multicast and reserved
)
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that is handed out
NOT_PUBLIC_6 = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))  # Teredo and other protocols, examples, 6to4, examples
)
NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address, which a gateway connects to


def is_public(address: str) -> bool:
    """Whether a numeric address is neither private, loopback, link-local, multicast nor reserved; IPv4 inside IPv6 counts as that IPv4."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None and found not in NAT64:
            return found in GLOBAL_UNICAST and found.is_global and not any(found in network for network in NOT_PUBLIC_6)
        found = IPv4Address(int(found) & 0xFFFF_FFFF)
    return found.is_global and not any(found in network for network in NOT_PUBLIC)
