"""Whether the settings are fit for mail to real people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline.doctor.finding import Check, Finding, Patient, bad, good, unknown
from pipeline.embedding import Model
from pipeline.errors import SettingsError
from pipeline.settings import DEVELOPMENT_KEY

ENOUGH: Final = 32  # characters: 128 bits even where each is a hexadecimal digit


def settings(patient: Patient) -> Iterator[Finding]:
    try:
        patient.settings.check_real_mail()
    except SettingsError as error:
        yield bad("settings", str(error), "set them in .env; .env.example explains each")
        return
    if patient.settings.smtp.is_loopback:
        yield good("settings", "mail stays on this machine, so nothing has to be set")
    else:
        yield good("settings", "everything is set that mail to real people needs")


def sender(patient: Patient) -> Iterator[Finding]:
    try:
        yield good("sender", f"mail comes from {patient.services.sender.host}")
    except SettingsError as error:
        yield bad("sender", str(error), "correct it in .env")


def secret_keys(patient: Patient) -> Iterator[Finding]:
    suppression = patient.settings.suppression_key.get_secret_value()
    given = {"SECRET_KEY": patient.settings.secret_key, "SUPPRESSION_KEY": (suppression,)}
    public = [name for name, keys in given.items() if DEVELOPMENT_KEY in keys]
    short = [name for name, keys in given.items() if min(map(len, keys)) < ENOUGH]
    if public and patient.settings.smtp.is_loopback:
        yield unknown("secret keys", "those of the development: good enough to try Paperboy out")
    elif short:
        detail = f"too short to be safe: {', '.join(short)}"
        yield bad("secret keys", detail, "make one with: openssl rand -hex 32")
    else:
        yield good("secret keys", "long enough, and not those that everybody knows")


def dkim_keys(patient: Patient) -> Iterator[Finding]:
    try:
        signer = patient.services.signer
    except SettingsError as error:
        yield bad("dkim keys", str(error), "make a new one with: paperboy dkim new SELECTOR")
        return
    if signer is None:
        yield unknown("dkim keys", "none is set; mail leaves unsigned from here")
        return
    used = ", ".join(f"{k.selector} ({k.algorithm}, {k.bits} bits)" for k in signer.signing)
    short = any(key.is_short for key in signer.signing)
    advice = "replace the short one by one of 2048 bits: paperboy dkim new SELECTOR"
    yield good("dkim keys", f"signing for {signer.domain} with {used}", advice if short else "")


def semantic_model(patient: Patient) -> Iterator[Finding]:
    """Only where one is named: it would stop ingest and compiling."""
    places = patient.settings.semantic_model
    if not places:
        return
    try:
        model = Model(places)
    except SettingsError as error:
        yield bad("semantic model", str(error), "correct it in .env; docs/matching.md tells how")
        return
    yield good("semantic model", f"it reads; vectors of {model.size}, known as {model.name}")


CHECKS: tuple[Check, ...] = (settings, sender, secret_keys, dkim_keys, semantic_model)
