"""Read an SPF record as a mailbox does: how often it asks the DNS, and what it lets through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from pipeline.doctor.resolver import Resolver

MOST_LOOKUPS: Final = 10  # RFC 7208, section 4.6.4

_MODIFIER = re.compile(r"(?P<name>[a-z][\w.-]*)=(?P<value>.*)", re.IGNORECASE)
_MECHANISM = re.compile(
    r"[+?~-]?(?P<name>all|include|a|mx|ptr|ip4|ip6|exists)"
    r"(?::(?P<value>[^/]+))?(?P<length>(?:/\d+)?(?://\d+)?)",
    re.IGNORECASE,
)
_ASKS: Final = frozenset({"include", "a", "mx", "ptr", "exists"})


@dataclass
class Reading:
    """What a record comes to, with all that it includes."""

    lookups: int = 0
    end: str | None = None  # the "all" of the record itself, "-all"; or its redirect
    problems: list[str] = field(default_factory=list)
    networks: list[IPv4Network | IPv6Network] = field(default_factory=list)

    def covers(self, address: str) -> bool:
        return any(ip_address(address) in network for network in self.networks)


def records(texts: list[str]) -> list[str]:
    """Those of a domain's TXT records that are SPF records (RFC 7208, section 4.5)."""
    return [text for text in texts if text.lower().split(" ")[0] == "v=spf1"]


def read(record: str, domain: str, resolver: Resolver) -> Reading:
    """Raises UnansweredError where the DNS says nothing about what it includes."""
    reading = Reading()
    _Walk(resolver, reading).through(record, domain, outer=True)
    if reading.lookups > MOST_LOOKUPS:
        problem = f"asks the DNS more than {MOST_LOOKUPS} times, where mailboxes give up"
        reading.problems.append(problem)
    if reading.end is None:
        reading.problems.append("does not end in -all or ~all, so it says nothing about others")
    elif reading.end.lower() in {"all", "+all"}:
        reading.problems.append("ends in +all, which lets everybody send in your name")
    return reading


@dataclass
class _Walk:
    resolver: Resolver
    reading: Reading

    def through(self, record: str, domain: str, *, outer: bool = False) -> None:
        for term in record.split()[1:]:
            if self.reading.lookups > MOST_LOOKUPS:
                return  # a loop, or as good as one
            if found := _MODIFIER.fullmatch(term):
                self._modify(found, outer=outer)
            elif found := _MECHANISM.fullmatch(term):
                self._meet(found, domain, outer=outer)
            else:
                self.reading.problems.append(f"{term!r} means nothing, which voids the record")

    def _modify(self, found: re.Match[str], *, outer: bool) -> None:
        if found["name"].lower() == "redirect":
            self.reading.lookups += 1
            self._include(found["value"], outer=outer)

    def _meet(self, found: re.Match[str], domain: str, *, outer: bool) -> None:
        name, value = found["name"].lower(), found["value"] or ""
        if name in _ASKS:
            self.reading.lookups += 1
        if name == "all" and outer:
            self.reading.end = found[0]
        elif name in {"ip4", "ip6"}:
            self._allow(f"{value}{found['length']}", f"{found[0]!r} is no network")
        elif name == "include":
            self._include(value)
        elif name in {"a", "mx"}:
            self._allow_hosts(name, value or domain)

    def _include(self, domain: str, *, outer: bool = False) -> None:
        if "%" in domain:  # a macro: depends on the mail
            return
        found = records(self.resolver.texts(domain))
        if len(found) != 1:
            problem = f"includes {domain}, which has {len(found) or 'no'} SPF record"
            self.reading.problems.append(problem + ("s" if len(found) > 1 else ""))
            return
        self.through(found[0], domain, outer=outer)

    def _allow_hosts(self, name: str, domain: str) -> None:
        if "%" in domain:
            return
        hosts = self.resolver.exchanges(domain) if name == "mx" else [domain]
        for host in filter(None, hosts[:MOST_LOOKUPS]):
            for address in self.resolver.addresses(host):
                self._allow(address, "")

    def _allow(self, network: str, problem: str) -> None:
        try:
            self.reading.networks.append(ip_network(network, strict=False))
        except ValueError:
            self.reading.problems.append(problem)
