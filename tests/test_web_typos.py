"""Mistyped addresses are questioned; addresses at real providers are not."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine

from pipeline.storage.schema import RequestRow
from pipeline.web.subscribe.typos import doubt
from tests.support.newsroom import rows
from tests.support.site import Site, open_site

FORM = {"topic": "agents", "hour": "8", "timezone": "UTC", "max_papers": "10", "do": "subscribe"}

REAL = sorted(
    set(
        str.split(
            """
gmail.com googlemail.com gmx.net gmx.de gmx.at gmx.ch gmx.com gmx.co.uk web.de mail.com
email.com ymail.com rocketmail.com yahoo.com yahoo.co.uk yahoo.com.br yahoo.de yahoo.fr
hotmail.com hotmail.co.uk hotmail.fr live.com live.nl live.co.uk outlook.com outlook.de
outlook.com.br msn.com icloud.com me.com mac.com aol.com aim.com proton.me protonmail.com
protonmail.ch pm.me posteo.de mailbox.org tutanota.com tuta.io fastmail.com fastmail.fm hey.com
zoho.com hushmail.com qq.com 163.com 126.com 139.com foxmail.com sina.com sohu.com naver.com
hanmail.net daum.net mail.ru bk.ru inbox.ru list.ru ya.ru yandex.ru yandex.com ukr.net wp.pl
o2.pl onet.pl op.pl interia.pl seznam.cz centrum.cz free.fr orange.fr orange.com sfr.fr
laposte.net wanadoo.fr libero.it tin.it alice.it virgilio.it t-online.de freenet.de arcor.de
bluewin.ch hispeed.ch telenet.be skynet.be ziggo.nl xs4all.nl telia.com comcast.net verizon.net
att.net sbcglobal.net cox.net charter.net rogers.com shaw.ca sympatico.ca bigpond.com
optusnet.com.au btinternet.com virginmedia.com sky.com uol.com.br bol.com.br terra.com.br
rediffmail.com riseup.net disroot.org kolabnow.com runbox.com mailfence.com gmail.mit.edu
mail.utoronto.ca ox.ac.uk cam.ac.uk mit.edu ethz.ch cern.ch uni-muenchen.de inria.fr
u-tokyo.ac.jp tsinghua.edu.cn iitb.ac.in usp.br example.cm example.co example.om x.com t.co xn--
mnchen-3ya.de
"""
        )
    )
)


@pytest.fixture
def backend() -> str:
    """Return SQLite only: these tests do not depend on the database."""
    return "sqlite"


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ada@gmail", "ada@gmail.com"),
        ("ada@gmailcom", "ada@gmail.com"),
        ("ada@hotmial", "ada@hotmail.com"),
        ("ada@gmial.com", "ada@gmail.com"),
        ("Ada.L+x@GMIAL.COM", "Ada.L+x@gmail.com"),
        ("ada@gamil.com", "ada@gmail.com"),
        ("ada@gmal.com", "ada@gmail.com"),
        ("ada@gmaill.com", "ada@gmail.com"),
        ("ada@gnail.com", "ada@gmail.com"),
        ("ada@gmail.con", "ada@gmail.com"),
        ("ada@gmail.co", "ada@gmail.com"),
        ("ada@gmail.cm", "ada@gmail.com"),
        ("ada@gmail.co.uk", "ada@gmail.com"),
        ("ada@www.gmail.com", "ada@gmail.com"),
        ("ada@gmail,com", "ada@gmail.com"),
        ("ada@gmail.com,", "ada@gmail.com"),
        ("<ada@gmail.com>", "ada@gmail.com"),
        ("mailto:ada@example.org", "ada@example.org"),
        ("ada@gmail. com", "ada@gmail.com"),
        ("ada@@example.org", "ada@example.org"),
        ("ada@yaho.com", "ada@yahoo.com"),
        ("ada@yahooo.co.uk", "ada@yahoo.co.uk"),
        ("ada@hotmai.fr", "ada@hotmail.fr"),
        ("ada@outlok.de", "ada@outlook.de"),
        ("ada@iclould.com", "ada@icloud.com"),
        ("ada@icluod.com", "ada@icloud.com"),
        ("ada@prtonmial.com", "ada@protonmail.com"),
        ("ada@example.con", "ada@example.com"),
        ("ada@cs.example.eud", "ada@cs.example.edu"),
        ("ada@mgail.com", "ada@gmail.com"),
        ("ada@gmail.mit.eud", "ada@gmail.mit.edu"),
        ("ada@ohtmail.de", "ada@hotmail.de"),
        ("ada@gmail.com.br", "ada@gmail.com"),
        ("ada@gmail.org.uk", "ada@gmail.com"),
        ("ada@gmail.net", "ada@gmail.com"),
        ("ada@yahoo.c", "ada@yahoo.com"),
        ("ada@yahoo", "ada@yahoo.com"),
        ("ada@yahoocom", "ada@yahoo.com"),
        ("ada@outlook.ne", "ada@outlook.com"),
        ("ada@rediffmial", "ada@rediffmail.com"),
        ("ada@example.ogr", "ada@example.org"),
        ("ada@example.nte", "ada@example.net"),
        ("ada@example;org", "ada@example.org"),
        ("'ada@example.org'", "ada@example.org"),
    ],
)
def test_mistyped_domain_gets_a_suggestion(typed: str, meant: str):
    found = doubt(typed)

    assert found is not None
    assert found.suggestion == meant
    assert doubt(meant) is None, "a suggestion raises no question of its own"


@pytest.mark.parametrize("domain", REAL)
def test_known_provider_gets_no_suggestion(domain: str):
    assert doubt(f"ada@{domain}") is None


@pytest.mark.parametrize(
    "domain",
    [
        *("gmail.ac.uk", "gmail.com.info", "gmail.co.uka", "gmail.x.y.uk"),
        *("ymail.example", "gmxyz.com", "gmalil.de", "xmail.com", "amgil.com", "lgmail.com"),
        *("fstmal.com", "tuttanotas.com", "rcketmal.org", "yahoo.example", "outlook.museum"),
    ],
)
def test_plausible_domain_gets_no_suggestion(domain: str):
    assert doubt(f"ada@{domain}") is None


@pytest.mark.parametrize(
    ("typed", "may_insist"),
    [
        ("ada@gmial.com", True),
        ("ada@gmail.co.uk", True),
        ("ada@gmail", False),
        ("ada@gmail,com", False),
        ("ada@@example.org", False),
    ],
)
def test_only_a_deliverable_address_may_be_insisted_on(typed: str, may_insist: bool):
    found = doubt(typed)

    assert found is not None
    assert found.may_insist is may_insist


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "@",
        "ada",
        "gmial.com",
        "@gmial.com",
        "@gmail.com",
        "ada@",
        "ada@localhost",
        "ada@255.255.255.255",
        "a@[::1]",
    ],
)
def test_invalid_address_gets_no_suggestion(typed: str):
    assert doubt(typed) is None


def buttons(html: str) -> dict[str, str]:
    return dict(re.findall(r'name="(suggested|insist)" value="([^"]*)"', html))


def asked(engine: Engine) -> list[str]:
    return [row.email for row in rows(engine, RequestRow, RequestRow.id)]


def test_suggested_button_submits_the_suggested_address(site: Site, engine: Engine):
    """This works without a script: the button submits the whole form again."""
    fields = {**FORM, "email": "ada@gmial.com"}
    doubted = site.post("/subscribe", data=fields)
    offered = buttons(doubted.text)
    taken = site.post(
        "/subscribe", data={**FORM, "email": "ada@gmial.com", "suggested": offered["suggested"]}
    )

    assert doubted.status_code == 422
    assert "Did you mean ada@gmail.com?" in doubted.text
    assert offered == {"suggested": "ada@gmail.com", "insist": "ada@gmial.com"}
    assert taken.status_code == 200
    assert asked(engine) == ["ada@gmail.com"]


def test_insist_button_submits_the_typed_address(site: Site, engine: Engine):
    fields = {**FORM, "email": "ada@gmial.com", "insist": "ada@gmial.com"}
    kept = site.post("/subscribe", data={**fields, "queries": "(open"})
    other = site.post("/subscribe", data={**fields, "email": "ada@gmal.com"})
    sent = site.post("/subscribe", data=fields)

    assert kept.status_code == 422
    assert "Did you mean" not in kept.text
    assert '<input type="hidden" name="insist" value="ada@gmial.com">' in kept.text
    assert "Did you mean ada@gmail.com?" in other.text, "another address is another question"
    assert sent.status_code == 200
    assert asked(engine) == ["ada@gmial.com"]


@pytest.mark.parametrize("typed", ["ada@gmail", "ada@localhost", "ada@255.255.255.255", "a@x.1"])
def test_impossible_domain_cannot_be_insisted_on(site: Site, engine: Engine, typed: str):
    answer = site.post("/subscribe", data={**FORM, "email": typed, "insist": typed})

    assert answer.status_code == 422
    assert 'id="email-mistake"' in answer.text
    assert "insist" not in buttons(answer.text)
    assert asked(engine) == []


def test_suggestion_is_escaped(site: Site):
    answer = site.post("/subscribe", data={**FORM, "email": '"<b>\'x"@gmial.com'})

    assert "<b>'x" not in answer.text
