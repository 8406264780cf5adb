"""Mail servers of common providers: host, port, form of the user name, and SPF record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Provider:
    """The submission server of a provider, as its documentation states it."""

    name: str
    host: str = ""  # {region}: differs for each account
    port: int = 587
    user: str = ""  # the user name, if it is the same for every account
    login: str = ""  # where user name and password come from
    spf: str = ""  # the domain that SPF includes
    by_token: bool = False  # one token is user name and password
    signs: bool = True  # with DKIM, once the domain is verified there


PROVIDERS: Final = (
    Provider(
        "Amazon SES",
        "email-smtp.{region}.amazonaws.com",
        login="SMTP credentials of SES; an AWS access key does not work",
        spf="amazonses.com",
    ),
    Provider(
        "Postmark",
        "smtp.postmarkapp.com",
        login="the server API token is user and password",
        spf="spf.mtasv.net",
        by_token=True,
    ),
    Provider(
        "Mailgun",
        "smtp.mailgun.org",
        login="SMTP credentials of the sending domain; in the EU the host is smtp.eu.mailgun.org",
        spf="mailgun.org",
    ),
    Provider(
        "SendGrid",
        "smtp.sendgrid.net",
        user="apikey",
        login="the user is the word apikey, the password an API key",
        spf="sendgrid.net",
    ),
    Provider(
        "Brevo",
        "smtp-relay.brevo.com",
        login="the SMTP login, and an SMTP key as password",
        spf="spf.brevo.com",
    ),
    Provider(
        "Resend",
        "smtp.resend.com",
        user="resend",
        login="the user is the word resend, the password an API key",
        spf="amazonses.com",
    ),
    Provider(
        "Gmail or Google Workspace",
        "smtp.gmail.com",
        login="the address of the account, and an app password",
        spf="_spf.google.com",
    ),
    Provider(
        "Microsoft 365",
        "smtp.office365.com",
        login="the address of the mailbox; OAuth settings follow by hand, see docs/providers.md",
        spf="spf.protection.outlook.com",
    ),
    Provider("Postfix on this machine", "127.0.0.1", 25, login="none: leave it empty", signs=False),
    Provider("another server", login="as the server wants it", signs=False),
)


def provider_of(host: str) -> Provider | None:
    """Return the provider that this mail server belongs to; None if it is another."""
    for provider in PROVIDERS:
        start, region, end = provider.host.partition("{region}")
        if host == provider.host or (region and host.startswith(start) and host.endswith(end)):
            return provider
    return None
