"""The documented reply table: the code must classify every row as the page states."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.domain import Verdict
from pipeline.smtp.decision import strike_of
from pipeline.smtp.replies import Phase, Subject, parse_reply, subject_of, verdict_of

PAGE = (Path(__file__).parents[1] / "docs" / "replies.md").read_text()
ROW = re.compile(r"^\| (\w+) \| `([^`]+)` \| (\w+) \| ([\w ]+) \| ([^|]+) \|$", re.M)
ROWS = ROW.findall(PAGE)
COUNTED = {verdict for verdict in Verdict if strike_of(verdict, None)}


def test_every_row_of_the_table_is_parsed():
    table = PAGE.partition("| phase | reply |")[2].partition("\n\n")[0]

    assert len(ROWS) == table.count("\n") - 1 >= 150


def test_every_reply_is_classified_as_documented():
    judged = [
        (phase, reply, str(subject_of(Phase(phase), said)), str(verdict_of(Phase(phase), said)))
        for phase, reply, *_ in ROWS
        for said in [parse_reply([reply.encode()])]
    ]

    assert judged == [row[:4] for row in ROWS]


def test_only_replies_about_the_mailbox_or_unclear_ones_count_as_strikes():
    counted = {about for _, _, about, verdict, _ in ROWS if Verdict(verdict) in COUNTED}

    assert counted <= {Subject.MAILBOX, Subject.UNCLEAR}


def test_documentation_explains_every_subject_and_verdict():
    for word in (*Subject, *(set(Verdict) - {Verdict.UNKNOWN})):
        assert f"`{word}`" in PAGE, word
