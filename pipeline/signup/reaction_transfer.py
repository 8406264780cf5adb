"""Reactions, saved papers and settings of profiles in an export: a JSON object in a cell each."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.domain import Liking
from pipeline.errors import PaperboyError
from pipeline.matching.profile import Terms
from pipeline.signup.csv_lists import json_cell
from pipeline.signup.reactions import learn_anew
from pipeline.storage import papers, reactions
from pipeline.storage.reactions import Reaction, StoredProfile


@dataclass(frozen=True, slots=True)
class MovedProfile:
    """What a reader decided about the own profile; the rest is learned from the reactions."""

    profile: StoredProfile
    feed_secret: str | None = field(repr=False)


def reaction_cell(reaction: Reaction) -> str:
    return json_cell(
        {
            "paper": reaction.key,
            "title": reaction.title,
            "authors": reaction.authors,
            "year": reaction.year,
            "url": reaction.url,
            "liking": reaction.liking.name.lower(),
            "own": reaction.is_own,
            "saved_at": reaction.saved_at.isoformat() if reaction.saved_at else None,
            "note": reaction.note,
            "at": reaction.at.isoformat(),
            "telling": reaction.telling,
            "terms": b64encode(reaction.terms).decode(),
        }
    )


def parse_reaction(cell: str) -> Reaction:
    """Return a reaction; its `paper_id` is None. Raise PaperboyError if it is invalid."""
    try:
        values = json.loads(cell)
        saved_at = values["saved_at"] and datetime.fromisoformat(values["saved_at"])
        found = Reaction(
            key=str(values["paper"]),
            paper_id=None,
            title=str(values["title"]),
            authors=tuple(map(str, values["authors"])),
            terms=b64decode(values["terms"]),
            telling=tuple((str(stems), str(written)) for stems, written in values["telling"]),
            at=datetime.fromisoformat(values["at"]),
            liking=Liking[values["liking"].upper()],
            is_own=bool(values["own"]),
            saved_at=saved_at or None,
            note=str(values["note"]),
            year=values["year"] and int(values["year"]),
            url=str(values["url"]),
        )
        if found.terms or found.liking is not Liking.NEITHER:
            Terms.load(found.terms)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise PaperboyError("reaction: not from a Paperboy export") from error
    if found.at.tzinfo is None or (found.saved_at and found.saved_at.tzinfo is None):
        raise PaperboyError("reaction: a time without a time zone")
    return found


def profile_cell(profile: Mapping[str, Any] | None) -> str:
    """Return the settings in a row of `profiles`; "" if there is none."""
    if profile is None:
        return ""
    names = ("is_on", "outside", "removed", "feed_secret", "saved_weekly")
    return json_cell({name: profile[name] for name in names})


def parse_profile(cell: str) -> MovedProfile | None:
    """Return the settings of a profile; None if the cell is empty. Raise PaperboyError."""
    if not cell:
        return None
    try:
        values = json.loads(cell)
        profile = StoredProfile(
            is_on=bool(values["is_on"]),
            outside=bool(values["outside"]),
            removed=tuple(map(str, values["removed"])),
            saved_weekly=bool(values.get("saved_weekly")),  # missing in exports of older versions
        )
        secret = values["feed_secret"]
        return MovedProfile(profile, str(secret) if secret else None)
    except (ValueError, TypeError, KeyError) as error:
        raise PaperboyError("profile: not from a Paperboy export") from error


def restore_profile(
    conn: Connection, subscriber_id: int, moved: MovedProfile | None, now: datetime
) -> None:
    """Store the settings of a new subscriber; a feed secret that is in use is left out."""
    if moved is None:
        return
    reactions.put_profile(conn, subscriber_id, moved.profile, now)
    if moved.feed_secret and not reactions.is_feed_secret_in_use(conn, moved.feed_secret):
        reactions.put_feed_secret(conn, subscriber_id, moved.feed_secret, now)


def restore_reactions(
    conn: Connection,
    subscriber_id: int,
    moved: Sequence[Reaction],
    now: datetime,
    *,
    dry_run: bool = False,
) -> list[bool]:
    """Store the reactions to papers without one, and learn from them; return which were new."""
    new = [_restore(conn, subscriber_id, reaction, dry_run=dry_run) for reaction in moved]
    if any(new) and not dry_run:
        learn_anew(conn, subscriber_id, reactions.profile_of(conn, subscriber_id), now)
    return new


def _restore(conn: Connection, subscriber_id: int, reaction: Reaction, *, dry_run: bool) -> bool:
    paper = papers.by_key(conn, reaction.key)
    here = replace(reaction, key=paper.key, paper_id=paper.id) if paper else reaction
    if reactions.to_paper(conn, subscriber_id, here.key, here.paper_id):
        return False
    if not dry_run:
        reactions.put(conn, subscriber_id, here)
    return True


def by_reader(moved: Iterable[tuple[int, str, Reaction]]) -> dict[str, list[tuple[int, Reaction]]]:
    """Return the reactions by the key of their reader's address, each with its place."""
    found: dict[str, list[tuple[int, Reaction]]] = {}
    for place, key, reaction in moved:
        found.setdefault(key, []).append((place, reaction))
    return found
