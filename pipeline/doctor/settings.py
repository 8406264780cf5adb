"""Check whether the settings are complete and safe for mail to real subscribers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

from pipeline.doctor.finding import PATIENCE, Check, Finding, Installation, bad, good, unknown
from pipeline.embedding import Model
from pipeline.errors import SchemaError, SettingsError
from pipeline.settings import SHORTEST_SECRET, suspicions
from pipeline.sources.public_addresses import Proxy
from pipeline.storage import keys, migrate
from pipeline.storage.database import read_only
from pipeline.storage.keys import KeyName, StoredKey


def settings(installation: Installation) -> Iterator[Finding]:
    try:
        installation.settings.check_real_mail()
    except SettingsError as error:
        yield bad("settings", str(error), "set them in .env; .env.example explains each")
        return
    if not installation.settings.sends_real_mail:
        detail = "trial: SITE_URL is not public, mail stays on this machine; nothing is required"
        yield good("settings", detail)
    else:
        yield good("settings", "all settings that sending real mail requires are set")


def sender(installation: Installation) -> Iterator[Finding]:
    try:
        yield good("sender", f"mail comes from {installation.services.sender.host}")
    except SettingsError as error:
        yield bad("sender", str(error), "correct it in .env")


def names(installation: Installation) -> Iterator[Finding]:
    """Report settings that are probably mistyped, or set twice."""
    for suspicion in suspicions():
        if suspicion.is_sure:
            yield bad("names", suspicion.text, "correct it; .env.example has every name")
        else:
            yield unknown(
                "names",
                suspicion.text,
                "ignore it if it belongs to another program, else correct it",
            )


def secret_keys(installation: Installation) -> Iterator[Finding]:
    """Report the source of each key, and keys short enough to be guessed."""
    loaded = installation.settings
    if loaded.weak_keys:
        detail = f"shorter than {SHORTEST_SECRET} characters: {', '.join(loaded.weak_keys)}"
        advice = "generate one with: openssl rand -hex 32"
        if loaded.weak_keys == [KeyName.SUPPRESSION]:
            advice = "keep it: a new key would make the stored suppressions unusable"
        yield bad("secret keys", detail, advice)
        return
    hidden = loaded.suppression_key
    given = loaded.secret_key, hidden.get_secret_value() if hidden else None
    stored = _stored_keys(installation)
    if stored is None:
        missing = [n for n, key in zip(KeyName, given, strict=True) if not key]
        if missing:
            yield unknown("secret keys", f"{' and '.join(missing)}: the database is not available")
        else:
            yield good("secret keys", "both are set in the settings, and long enough")
        return
    try:
        keys.settled(stored, *given, now=installation.now, link_life=timedelta())
    except SettingsError as error:
        yield bad("secret keys", str(error), "restore the earlier value")
        return
    sources = [_source(n, key, stored.get(n)) for n, key in zip(KeyName, given, strict=True)]
    yield good("secret keys", "; ".join(sources))


def _source(name: KeyName, given: object, row: StoredKey | None) -> str:
    if given:
        return f"{name} from the settings"
    if row is None:
        return f"{name} will be generated at the first start"
    return f"{name} generated on {row.made_at:%Y-%m-%d}, stored in the database"


def _stored_keys(installation: Installation) -> dict[KeyName, StoredKey] | None:
    """Return the keys in the database; None if it is not available or not migrated."""
    if installation.database_trouble:
        return None
    try:
        migrate.check(installation.services.engine)
    except SchemaError:
        return None
    with read_only(installation.services.engine) as conn:
        return keys.stored_keys(conn)


def dkim_keys(installation: Installation) -> Iterator[Finding]:
    try:
        signer = installation.services.signer
    except SettingsError as error:
        yield bad("dkim keys", str(error), "create a key with: paperboy dkim new SELECTOR")
        return
    if signer is None:
        yield unknown("dkim keys", "no key is set: Paperboy does not sign mail")
        return
    used = ", ".join(f"{k.selector} ({k.algorithm}, {k.bits} bits)" for k in signer.signing)
    short = any(key.is_short for key in signer.signing)
    advice = "replace the short key with one of 2048 bits: paperboy dkim new SELECTOR"
    yield good("dkim keys", f"signing for {signer.domain} with {used}", advice if short else "")


def outbound_proxy(installation: Installation) -> Iterator[Finding]:
    """Check that the proxy of HTTPS_PROXY accepts connections, if one is set."""
    proxy = Proxy.of(installation.settings)
    if proxy is None:
        return
    host, port = proxy.place
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        yield bad("outbound proxy", f"{host}:{port} is not reachable: {error}", "see HTTPS_PROXY")
        return
    direct = ", ".join(proxy.exceptions)
    exceptions = f", except {direct}" if direct else ""
    yield good("outbound proxy", f"sources are read through {host}:{port}{exceptions}")


def semantic_model(installation: Installation) -> Iterator[Finding]:
    """Check the semantic model if one is set; a broken one would stop ingest and compiling."""
    places = installation.settings.semantic_model
    if not places:
        return
    try:
        model = Model(places)
    except SettingsError as error:
        yield bad("semantic model", str(error), "correct it in .env; see docs/matching.md")
        return
    yield good("semantic model", f"loaded {model.name}, vectors of {model.size} dimensions")


CHECKS: tuple[Check, ...] = (
    settings,
    names,
    sender,
    secret_keys,
    dkim_keys,
    outbound_proxy,
    semantic_model,
)
