"""Query the DNS with a short timeout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import dns.exception
import dns.resolver
import dns.reversename
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TXT import TXT

from pipeline.errors import UnansweredError

NOBODY: Final = "no DNS server can be reached that knows the internet"


class Resolver:
    """DNS resolver: a missing name returns an empty answer, no answer raises UnansweredError."""

    def __init__(self, server: tuple[str, int] | None = None, *, patience: float = 2.0) -> None:
        self._server = server
        self._patience = patience
        self._silent = False  # after the first timeout or useless server, raise at once

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of a name, the strings of each joined."""
        records = [record for record in self._ask(name, "TXT") if isinstance(record, TXT)]
        return [b"".join(record.strings).decode("utf-8", "replace") for record in records]

    def exchanges(self, name: str) -> list[str]:
        """Return the mail servers of a domain, best first; [""] if it takes no mail (RFC 7505)."""
        records = [record for record in self._ask(name, "MX") if isinstance(record, MX)]
        records.sort(key=lambda record: record.preference)
        return [record.exchange.to_text(omit_final_dot=True).rstrip(".") for record in records]

    def addresses(self, name: str) -> list[str]:
        return [str(record) for kind in ("A", "AAAA") for record in self._ask(name, kind)]

    def names(self, address: str) -> list[str]:
        """Return the names of an address (PTR)."""
        reverse = dns.reversename.from_address(address).to_text()
        return [str(record).rstrip(".").lower() for record in self._ask(reverse, "PTR")]

    def _ask(self, name: str, kind: str) -> Iterable[object]:
        if self._silent:
            raise UnansweredError(NOBODY)
        try:
            answer = self._resolver().resolve(name, kind, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as denial:
            if not self._knows_the_world(denial, name):
                self._silent = True
                raise UnansweredError(NOBODY) from None
            return ()
        except (dns.exception.Timeout, dns.resolver.NoResolverConfiguration) as error:
            self._silent = True
            raise UnansweredError(NOBODY) from error
        except dns.exception.DNSException as error:
            raise UnansweredError(f"no DNS server answered for {name}") from error
        return answer.rrset or ()

    def _knows_the_world(self, denial: dns.resolver.NXDOMAIN, name: str) -> bool:
        """Return whether NXDOMAIN from this server can be trusted.

        It can if the answer has an authority section (RFC 2308, section 3), or if the server is a
        forwarder that drops the section but knows the top-level domain. The server of a closed
        network denies every name, top-level domains included.
        """
        responses = denial.responses()  # type: ignore[no-untyped-call]
        if any(response.authority for response in responses.values()):
            return True
        try:
            self._resolver().resolve(name.rstrip(".").rpartition(".")[2], "NS", search=False)
        except dns.resolver.NXDOMAIN:
            return False
        except dns.exception.DNSException:
            pass  # some forwarders answer for hosts only
        return True

    def _resolver(self) -> dns.resolver.Resolver:
        resolver = dns.resolver.Resolver(configure=self._server is None)
        if self._server is not None:
            address, resolver.port = self._server
            resolver.nameservers = [address]
        resolver.lifetime = self._patience
        return resolver
