"""Evaluate an SPF record as a mailbox does (RFC 7208): the first term that matches decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from pipeline.doctor.resolver import Resolver

MOST_LOOKUPS: Final = 10  # RFC 7208, section 4.6.4
MOST_VOID_LOOKUPS: Final = 2  # same section: lookups without an answer
MOST_EXCHANGES: Final = 10  # same section: names that one "mx" may return


class Result(StrEnum):
    """Results of RFC 7208, section 2.6. A temporary error is raised as UnansweredError instead."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    PERMERROR = "permerror"  # the record is invalid
    UNSURE = "unsure"  # depends on the mail: a macro


_QUALIFIERS: Final = {
    "+": Result.PASS, "-": Result.FAIL, "~": Result.SOFTFAIL, "?": Result.NEUTRAL,
}  # fmt: skip
_MECHANISMS: Final = frozenset({"all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"})
_MODIFIER: Final = re.compile(r"(?P<name>[a-z][a-z0-9_.-]*)=(?P<value>[!-~]*)", re.IGNORECASE)
_MECHANISM: Final = re.compile(
    r"(?P<qualifier>[+?~-]?)(?P<name>[a-z0-9]+)(?::(?P<value>[!-.0-~]*))?(?P<length>/[!-~]*)?",
    re.IGNORECASE,
)
_LENGTH: Final = r"(?:0|[1-9][0-9]{0,2})"
_DUAL_LENGTH: Final = re.compile(rf"(?:/(?P<v4>{_LENGTH}))?(?://(?P<v6>{_LENGTH}))?")
_MACRO: Final = re.compile(
    r"%(?:(?P<sign>[%_-])|\{(?P<letter>[slodiphcrtv])(?P<last>[0-9]*)(?P<back>r?)"
    r"(?P<divider>[.+,/_=-]*)\})",
    re.IGNORECASE,
)
_SIGNS: Final = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL: Final = re.compile(r".*\.(?=[a-z0-9-]*[a-z-])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.?", re.I)

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Term:
    """One mechanism of a record."""

    text: str
    result: Result  # of the record if the term matches
    name: str
    value: str | None
    length: str


@dataclass(frozen=True, slots=True)
class Record:
    """A record with valid syntax."""

    terms: tuple[Term, ...]
    redirect: str | None

    @property
    def end(self) -> str | None:
        """Return the default for other senders: the first "all", else the redirect, else None."""
        for term in self.terms:
            if term.name == "all":
                return term.text
        return None if self.redirect is None else f"redirect={self.redirect}"


@dataclass
class Evaluation:
    """Result of a record for one address, including the records that it includes."""

    result: Result = Result.NEUTRAL
    lookups: int = 0
    void_lookups: int = 0
    end: str | None = None  # of the record itself: "-all", or its redirect
    problems: list[str] = field(default_factory=list)  # each of them makes the record invalid
    permits: bool = False  # at least one term allows some address to send


class _VoidError(Exception):
    """A permanent error: mailboxes ignore this record."""


class _UnsureError(Exception):
    """A macro needs a value of the mail that is unknown here."""


def records(texts: list[str]) -> list[str]:
    """Return the TXT records that are SPF records (RFC 7208, section 4.5)."""
    return [text for text in texts if text.lower().split(" ")[0] == "v=spf1"]


def parse(record: str) -> Record:
    """Parse a record. Raise ValueError for a term that makes it invalid, before any lookup."""
    terms, redirect, seen = [], None, set()
    for text in filter(None, record.split(" ")[1:]):
        if found := _MODIFIER.fullmatch(text):
            name = found["name"].lower()
            if name not in {"redirect", "exp"}:
                continue  # RFC 7208, section 6: unknown modifiers are ignored
            if name in seen:
                raise ValueError(f"has {name}= twice, which voids the record")
            seen.add(name)
            _check_domain(found["value"], text)
            redirect = found["value"] if name == "redirect" else redirect
        else:
            terms.append(_term(text))
    return Record(tuple(terms), redirect)


def _term(text: str) -> Term:
    found = _MECHANISM.fullmatch(text)
    if found is None or found["name"].lower() not in _MECHANISMS:
        raise ValueError(f"{text!r} is not valid, which voids the record")
    name, value, length = found["name"].lower(), found["value"], found["length"] or ""
    if name in {"ip4", "ip6"}:
        _check_network(name, value, length, text)
    elif name == "all":
        if value is not None or length:
            raise ValueError(f"{text!r} is not valid, which voids the record")
    elif name in {"include", "exists"} or value is not None:
        _check_domain(value or "", text)
    if name in {"a", "mx"}:
        _lengths(length, text)
    elif length and name not in {"ip4", "ip6"}:
        raise ValueError(f"{text!r} has a prefix length, which voids the record")
    return Term(text, _QUALIFIERS[found["qualifier"] or "+"], name, value, length)


def _check_network(name: str, value: str | None, length: str, text: str) -> None:
    try:
        network = ip_network(f"{value or ''}{length}", strict=False)
    except ValueError:
        network = None
    is_length = not length or re.fullmatch(rf"/{_LENGTH}", length)
    if network is None or not is_length or network.version != int(name[2]):
        raise ValueError(f"{text!r} is not a network")


def _check_domain(value: str, text: str) -> None:
    rest = _MACRO.sub("", value)
    if "%" in rest or not value:
        raise ValueError(f"{text!r} has no domain, which voids the record")
    ends_in_macro = any(macro.end() == len(value) for macro in _MACRO.finditer(value))
    if not ends_in_macro and not _TOP_LABEL.fullmatch(value):
        raise ValueError(f"{text!r} names no domain, which voids the record")


def _lengths(length: str, text: str) -> tuple[int, int]:
    found = _DUAL_LENGTH.fullmatch(length)
    bits = (int((found and found["v4"]) or 32), int((found and found["v6"]) or 128))
    if found is None or bits[0] > 32 or bits[1] > 128:
        raise ValueError(f"{text!r} has a wrong length, which voids the record")
    return bits


def evaluate(
    record: str, domain: str, resolver: Resolver, address: str | None = None, helo: str = ""
) -> Evaluation:
    """Evaluate `record` for a mail from `address`; if None, as if no term matched but "all".

    `helo` is the name that our server gives. Raise UnansweredError if the DNS does not answer.
    """
    reading = Evaluation()
    sender = ip_address(address) if address else None
    try:
        reading.end = parse(record).end
        reading.result = _Evaluation(resolver, reading, sender, helo).check(record, domain)
    except (ValueError, _VoidError) as error:
        reading.problems.append(str(error))
        reading.result = Result.PERMERROR
    except _UnsureError:
        reading.result = Result.UNSURE
    return reading


@dataclass
class _Evaluation:
    """The function check_host() of RFC 7208, section 4."""

    resolver: Resolver
    reading: Evaluation
    sender: Address | None
    helo: str

    def check(self, record: str, domain: str) -> Result:
        """Return the result. Raise _VoidError, _UnsureError or UnansweredError if there is none."""
        try:
            parsed = parse(record)
        except ValueError as error:
            raise _VoidError(str(error)) from error
        return self._first_match(parsed, parsed.terms, domain)

    def _first_match(self, record: Record, terms: Sequence[Term], domain: str) -> Result:
        for place, term in enumerate(terms):
            if term.result is Result.PASS and term.name not in {"all", "include"}:
                self.reading.permits = True
            try:
                if self._matches(term, domain):
                    return term.result
            except _UnsureError:
                # The macro matters only if the rest of the record has another result.
                rest = self._first_match(record, terms[place + 1 :], domain)
                if (rest is Result.PASS) is (term.result is Result.PASS):
                    return rest
                raise
        if record.redirect is None or any(term.name == "all" for term in record.terms):
            return Result.NEUTRAL
        self._count()
        return self._other("redirects to", self._expand(record.redirect, domain))

    def _matches(self, term: Term, domain: str) -> bool:
        if term.name == "all":
            return True
        if term.name in {"ip4", "ip6"}:
            return self._lies_in(f"{term.value}{term.length}")
        self._count()
        if term.name == "ptr":
            return False  # RFC 7208, section 5.5: not to be used; large mailboxes skip it
        target = domain if term.value is None else self._expand(term.value, domain)
        if term.name == "include":
            return self._other("includes", target) is Result.PASS
        if term.name == "exists":
            found = self._asked(self.resolver.addresses, target)
            return self.sender is not None and any(":" not in address for address in found)
        return self._is_host(term, target)

    def _is_host(self, term: Term, target: str) -> bool:
        hosts = [target]
        if term.name == "mx":
            hosts = [host for host in self._asked(self.resolver.exchanges, target) if host]
            if len(hosts) > MOST_EXCHANGES:
                raise _VoidError(f"{target} has more than {MOST_EXCHANGES} mail servers")
            addresses = [found for host in hosts for found in self.resolver.addresses(host)]
        else:
            addresses = self._asked(self._addresses, target)
        v4, v6 = _lengths(term.length, term.text)
        return any(
            self._lies_in(f"{address}/{v6 if ':' in address else v4}") for address in addresses
        )

    def _addresses(self, name: str) -> list[str]:
        """Return addresses of the sender's family only (RFC 7208, section 5)."""
        found = self.resolver.addresses(name)
        if self.sender is None:
            return found
        return [address for address in found if (":" in address) is (self.sender.version == 6)]

    def _other(self, verb: str, domain: str) -> Result:
        found = records(self.resolver.texts(domain))
        if len(found) != 1:
            count = f"{len(found) or 'no'} SPF record{'s' if len(found) > 1 else ''}"
            raise _VoidError(f"{verb} {domain}, which has {count}")
        return self.check(found[0], domain)

    def _lies_in(self, network: str) -> bool:
        return self.sender is not None and self.sender in ip_network(network, strict=False)

    def _count(self) -> None:
        self.reading.lookups += 1
        if self.reading.lookups > MOST_LOOKUPS:
            raise _VoidError(f"needs more than {MOST_LOOKUPS} DNS lookups, the limit of mailboxes")

    def _asked(self, ask: Callable[[str], list[str]], name: str) -> list[str]:
        """Return the answer and count it if it is empty. Raise _VoidError if too many are empty."""
        found = ask(name)
        if not found:
            self.reading.void_lookups += 1
        if self.reading.void_lookups > MOST_VOID_LOOKUPS:
            raise _VoidError(
                f"looks up more than {MOST_VOID_LOOKUPS} names that do not exist, "
                f"such as {name}, the limit of mailboxes"
            )
        return found

    def _expand(self, value: str, domain: str) -> str:
        """Expand macros (RFC 7208, section 7). Raise _UnsureError if only a mail has the value."""
        values = {"d": domain, "o": domain, "h": self.helo}
        if self.sender is not None:
            octets = self.sender.packed.hex() if self.sender.version == 6 else ""
            values["i"] = ".".join(octets) or str(self.sender)
            values["v"] = "in-addr" if self.sender.version == 4 else "ip6"

        def word(macro: re.Match[str]) -> str:
            if macro["sign"]:
                return _SIGNS[macro["sign"]]
            whole = values.get(macro["letter"].lower())
            if not whole:
                raise _UnsureError
            parts = re.split(f"[{re.escape(macro['divider'] or '.')}]", whole)
            parts = parts[::-1] if macro["back"] else parts
            return ".".join(parts[-int(macro["last"]) :] if macro["last"] else parts)

        return _MACRO.sub(word, value).rstrip(".").lower()
