"""Check the DNS records that mail needs, and print each record to publish."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.dkim import Key, Record, aligned
from pipeline.dkim.signatures import tags
from pipeline.doctor import spf as reading_spf
from pipeline.doctor.finding import Check, Finding, Installation, bad, good, unknown
from pipeline.doctor.spf import Result
from pipeline.smtp.providers import provider_of

UNKNOWN_SPF = "<the name that your mail provider gives for SPF>"
LOCAL = "not applicable: MAIL_FROM is on this machine"


def wanted_records(installation: Installation) -> Iterator[Record]:
    """Yield the SPF, DKIM and DMARC records to publish, without querying the zone for them."""
    yield _wanted_spf(installation)
    signer = installation.services.signer
    if signer is not None:
        yield from (key.record(signer.domain) for key in signer.keys)
    yield _wanted_dmarc(installation)


def spf(installation: Installation) -> Iterator[Finding]:
    """Check the SPF record of the bounce domain, which mailboxes use, not that of From."""
    if not installation.is_public:
        yield unknown("spf", LOCAL)
        return
    domain = installation.envelope_domain
    found = reading_spf.records(installation.resolver.texts(domain))
    ours = _own_addresses(installation)
    wanted = _wanted_spf(installation)
    if len(found) != 1:
        count = f"{len(found)} SPF records, so mailboxes ignore all" if found else "no SPF record"
        yield bad("spf", f"{domain} has {count}", f"publish: {wanted.line}")
        return
    yield _spf_judged(found[0], domain, ours, installation, f"publish: {wanted.line}")


def _spf_judged(
    record: str, domain: str, ours: list[str], installation: Installation, publish: str
) -> Finding:
    host = installation.settings.smtp.host
    general = reading_spf.evaluate(record, domain, installation.resolver)
    read = {
        address: reading_spf.evaluate(record, domain, installation.resolver, address, host)
        for address in ours
    }
    by_result = {
        result: [address for address, reading in read.items() if reading.result is result]
        for result in Result
    }
    end = [] if general.problems and general.end is None else _spf_end(general.end)
    problems = [*end, *(p for found in read.values() for p in found.problems)]
    if not ours:
        problems += general.problems
        if not general.permits and general.result not in {Result.PERMERROR, Result.UNSURE}:
            problems.append("allows no server to send")
    if problems:
        return bad("spf", f"{domain}: {'; '.join(dict.fromkeys(problems))}", publish)
    refused = [a for a in ours if read[a].result not in {Result.PASS, Result.UNSURE}]
    if refused:
        why = f"{read[refused[0]].result} at {domain}"
        detail = f"{domain} does not allow {', '.join(refused)}, which sends our mail ({why})"
        return bad("spf", detail, f"add it to the record, before the final all; {publish}")
    if by_result[Result.UNSURE]:
        detail = (
            f"whether {domain} allows {', '.join(by_result[Result.UNSURE])} depends on the mail"
        )
        return unknown("spf", detail, publish)
    asks = f"needs {general.lookups} of {reading_spf.MOST_LOOKUPS} DNS lookups"
    advice = "ask your provider whether the record includes its servers" if not ours else ""
    if general.problems:
        advice = f"mail from other servers fails: {'; '.join(general.problems)}"
    return good("spf", f"{domain} {asks}, ends in {general.end}", advice)


def _spf_end(end: str | None) -> Iterator[str]:
    if end is None:
        yield "does not end in -all or ~all, so other servers are not excluded"
    elif end.lower() in {"all", "+all"}:
        yield "ends in +all, which allows every server to send in your name"


def dkim(installation: Installation) -> Iterator[Finding]:
    signer = installation.services.signer
    if signer is None:
        advice = (
            "make sure that your mail server signs, or create a key: paperboy dkim new SELECTOR"
        )
        yield unknown(
            "dkim", "Paperboy does not sign; whether the mail server does is unknown", advice
        )
        return
    if not installation.is_public:
        yield unknown("dkim", LOCAL)
        return
    for key in signer.keys:
        published = installation.resolver.texts(key.record(signer.domain).name)
        yield _published(key, published, key.record(signer.domain), signs=key in signer.signing)


def _published(key: Key, found: list[str], wanted: Record, *, signs: bool) -> Finding:
    check, publish = f"dkim {key.selector}", f"publish: {wanted.line}"
    if not found and not signs:
        return good(
            check, "not published, and not used for signing yet", f"before using it, {publish}"
        )
    if not found:
        return bad(check, f"signs, and {wanted.name} is not published", publish)
    if len(found) > 1:
        return bad(check, f"{wanted.name} has {len(found)} records", f"keep one, and {publish}")
    said, ours = tags(found[0]), tags(wanted.value)
    if not said.get("p"):
        return bad(check, "the published key is revoked", f"use a new selector, or {publish}")
    if said["p"] != ours["p"] or said.get("k", "rsa") != ours["k"]:
        return bad(check, "another key is published under this selector", publish)
    testing = (
        "remove t=y: it asks mailboxes to ignore the signature" if "y" in said.get("t", "") else ""
    )
    use = "signs" if signs else "does not sign"
    return good(check, f"is published, {key.algorithm} of {key.bits} bits, and {use}", testing)


def dmarc(installation: Installation) -> Iterator[Finding]:
    if not installation.is_public:
        yield unknown("dmarc", LOCAL)
        return
    where, found = _dmarc_of(installation)
    wanted = _wanted_dmarc(installation)
    if len(found) != 1:
        count = (
            f"{len(found)} DMARC records, and mailboxes obey none" if found else "no DMARC record"
        )
        detail = f"{installation.sender_domain} has {count}"
        yield bad("dmarc", detail, f"publish, with an address for reports: {wanted.line}")
        return
    said = tags(found[0])
    policy = said.get("p", "").lower()
    if policy not in {"none", "quarantine", "reject"}:
        yield bad("dmarc", f"{where} has no policy (p=)", f"publish: {wanted.line}")
        return
    better = []
    if policy == "none":
        better.append("once the reports show no failures of your mail, use p=quarantine")
    if not said.get("rua", "").lower().startswith("mailto:"):
        better.append("add rua=mailto:... to get reports of failures")
    yield good("dmarc", f"{where} has p={policy}", "; ".join(better))


def dmarc_alignment(installation: Installation) -> Iterator[Finding]:
    """Check that SPF or DKIM authenticates the domain that readers see in From."""
    if not installation.is_public:
        yield unknown("dmarc alignment", LOCAL)
        return
    signer, sender = installation.services.signer, installation.sender_domain
    said = tags(" ".join(_dmarc_of(installation)[1][:1]))
    by_dkim = signer is not None and _aligned(sender, signer.domain, said.get("adkim", "r"))
    by_spf = _aligned(sender, installation.envelope_domain, said.get("aspf", "r"))
    if by_dkim or by_spf:
        ways = [way for way, holds in (("DKIM", by_dkim), ("SPF", by_spf)) if holds]
        better = "" if by_dkim else "forwarding breaks SPF: sign mail with this domain"
        yield good("dmarc alignment", f"{sender} is authenticated by {' and '.join(ways)}", better)
    else:
        detail = f"neither the signature nor the bounce address is under {sender}"
        yield bad("dmarc alignment", detail, f"sign as {sender}, or use a bounce address under it")


def mx(installation: Installation) -> Iterator[Finding]:
    """Check that the domains of our addresses can receive replies and bounces."""
    if not installation.is_public:
        yield unknown("mx", LOCAL)
        return
    for domain, uses in _mail_domains(installation).items():
        check, use = f"mx {domain}", " and ".join(uses)
        servers = installation.resolver.exchanges(domain)
        record = f"publish: {domain}. MX 10 <the server that receives its mail>."
        if servers and servers[0]:
            yield good(check, f"{servers[0]} receives its mail ({use})")
        elif servers:
            yield bad(check, f"its MX record refuses all mail, but {use} uses it", record)
        elif installation.resolver.addresses(domain):
            yield good(check, f"has no MX record, but an address record ({use})", record)
        else:
            yield bad(check, f"cannot receive mail, but {use} uses it", record)


def ptr(installation: Installation) -> Iterator[Finding]:
    """Check that our sending address has a name, and the name that address (FCrDNS)."""
    host = installation.settings.smtp.host
    if not installation.sends_itself:
        where = "on this machine" if installation.settings.smtp.is_loopback else "of a provider"
        yield unknown("ptr", f"the mail server is {where}; its sending address is unknown")
        return
    addresses = installation.resolver.addresses(host)
    if not addresses:
        yield bad("ptr", f"{host} has no address", f"publish: {host}. A <its address>")
    for address in addresses:
        names = installation.resolver.names(address)
        back = [name for name in names if address in installation.resolver.addresses(name)]
        advice = f"ask the provider of {address} to set its PTR record to {host}."
        if back:
            yield good("ptr", f"{address} and {back[0]} match")
        elif names:
            yield bad("ptr", f"{address} is {names[0]}, which has another address", advice)
        else:
            yield bad("ptr", f"{address} has no PTR record", advice)


def _own_addresses(installation: Installation) -> list[str]:
    """Return the addresses of a mail server under our own domain; none of a provider's."""
    if not installation.sends_itself:
        return []
    return installation.resolver.addresses(installation.settings.smtp.host)


def _wanted_spf(installation: Installation) -> Record:
    provider = provider_of(installation.settings.smtp.host)
    name = provider.spf if provider and provider.spf else UNKNOWN_SPF
    addresses = _own_addresses(installation)
    ours = [f"ip{6 if ':' in address else 4}:{address}" for address in addresses]
    value = " ".join(["v=spf1", *(ours or [f"include:{name}"]), "-all"])
    return Record(installation.envelope_domain, value)


def _wanted_dmarc(installation: Installation) -> Record:
    domain = installation.sender_domain
    return Record(f"_dmarc.{domain}", f"v=DMARC1; p=none; rua=mailto:dmarc@{domain}")


def _dmarc_of(installation: Installation) -> tuple[str, list[str]]:
    """Return the name and records of the sender's domain, else of the nearest parent with any."""
    labels = installation.sender_domain.split(".")
    for cut in range(len(labels) - 1):
        where = f"_dmarc.{'.'.join(labels[cut:])}"
        texts = installation.resolver.texts(where)
        if found := [text for text in texts if text.replace(" ", "").startswith("v=DMARC1")]:
            return where, found
    return f"_dmarc.{installation.sender_domain}", []


def _aligned(sender: str, authenticated: str, mode: str) -> bool:
    if mode.lower() == "s":  # strict (RFC 7489, section 3.1)
        return sender.lower() == authenticated.lower()
    return aligned(sender, authenticated)


def _mail_domains(installation: Installation) -> dict[str, list[str]]:
    loaded = installation.settings
    boxes = {
        "MAIL_FROM": loaded.sender,
        "REPLY_TO": loaded.reply_to,
        "BOUNCE_ADDRESS": loaded.bounce_address,
        "UNSUBSCRIBE_MAILBOX": loaded.unsubscribe_mailbox,
    }
    domains: dict[str, list[str]] = {}
    for name, box in boxes.items():
        if box is not None:
            domains.setdefault(installation.domain_of(box), []).append(name)
    return domains


CHECKS: tuple[Check, ...] = (spf, dkim, dmarc, dmarc_alignment, mx, ptr)
