"""A real name server on loopback, with a zone that a test writes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SERVFAIL = "SERVFAIL"
SOA = "ns.example.org. hostmaster.example.org. 1 3600 600 86400 60"


@dataclass
class NameServer:
    """A name server: `zone` maps (name, type) to records in zone file syntax, or to SERVFAIL."""

    zone: dict[tuple[str, str], list[str] | str] = field(default_factory=dict)
    silent: bool = False
    closed: bool = False  # an offline network's server: NXDOMAIN without an SOA, for any name
    requests: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while True:
            wire, client = listener.recvfrom(4096)
            if not wire:
                return
            query = dns.message.from_wire(wire)
            self.requests.append(_question(query))
            if not self.silent:
                listener.sendto(self._answer(query).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA | dns.flags.RA
        name, kind = _question(query)
        records = self.zone.get((name, kind), [])
        if records == SERVFAIL:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif records:
            answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *records))
        elif not any(existing == name for existing, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
            if not self.closed:
                answer.authority.append(dns.rrset.from_text("org.", 60, "IN", "SOA", SOA))
        return answer


@contextlib.contextmanager
def open_name_server() -> Iterator[NameServer]:
    server = NameServer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        server.port = listener.getsockname()[1]
        serving = threading.Thread(target=server.serve, args=(listener,))
        serving.start()
        try:
            yield server
        finally:
            listener.sendto(b"", listener.getsockname())  # an empty datagram ends `serve`
            serving.join()


def txt(text: str) -> list[str]:
    """Return one TXT record, split into strings of at most 255 octets."""
    return [" ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))]


def _question(query: dns.message.Message) -> tuple[str, str]:
    [question] = query.question
    kind = dns.rdatatype.to_text(question.rdtype)
    return question.name.to_text(omit_final_dot=True).lower(), kind
