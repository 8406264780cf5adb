"""The topic language: parse a query into a tree, and write it as one canonical text.

    alternatives := group (OR group)*
    group        := side (AND side)*
    side         := (term | -term | NOT term)+
    term         := word | "a phrase" | field:word | field:"a phrase" | ( alternatives )

Adjacent words are one ranked group; everything else is a strict condition. See docs/matching.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pipeline.domain import TRENDING, TopicKind
from pipeline.errors import QueryError
from pipeline.matching.author_names import author_forms
from pipeline.matching.tokens import calm, forms, forms_as_written
from pipeline.translations import gettext

LONGEST_QUERY = 2_000  # characters, as typed and in canonical form; a long abstract has as many
LARGEST_CANONICAL = 2_600  # bytes in UTF-8: PostgreSQL indexes values of at most 2,704 bytes
DEEPEST_QUERY = 20  # levels of nested parentheses and negations


class Field(StrEnum):
    TITLE = "ti"
    ABSTRACT = "abs"
    AUTHOR = "au"
    CATEGORY = "cat"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Words:
    """Adjacent words in the order typed: ranked, not all required. Folded, not stemmed."""

    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that must occur in this order, next to each other."""

    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fielded:
    """A phrase that must occur in one field; a single name for `cat` and `source`."""

    field: Field
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Not:
    operand: Query


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Query, ...]


Query: TypeAlias = Words | Phrase | Fielded | Not | And | Or


@dataclass(frozen=True, slots=True)
class TopicQuery:
    """A query parsed once, where text enters: a form, the command line, an import, a row.

    Two are equal if they have the same canonical text, however they were typed.
    """

    text: str  # canonical
    tree: Query = field(compare=False, repr=False)
    typed: str = field(compare=False, repr=False)

    @property
    def is_trending(self) -> bool:
        """Return whether it names the built-in topic, which is not matched by its words."""
        return self.text == TRENDING


def parse(text: str) -> Query:
    """Parse `text` into a normalised tree: two forms of one query return equal trees.

    Raise QueryError, and no other error, if `text` is not a query. The returned tree can be written
    and parsed again: normalising may lengthen a text (U+FDFA becomes 15 letters), so the length
    limit is validated for both forms.
    """
    query = _Parser(text).query()
    if not _finds_something(query):
        raise QueryError(text, gettext("this only excludes papers; add words to find"), 0)
    if len(write(query)) > LONGEST_QUERY:
        raise _too_long(text)
    return query


def canonical(text: str) -> str:
    """Return the canonical text of a query, which is stored and is the same for equal topics.

    Raise QueryError like `parse_topic`.
    """
    return parse_topic(text).text


def parse_topic(text: str) -> TopicQuery:
    """Parse the query of a topic.

    Raise QueryError like `parse`, and if the canonical text is too long for a PostgreSQL index.
    """
    tree = parse(text)
    written = write(tree)
    if len(written.encode()) > LARGEST_CANONICAL:
        raise _too_long(text)
    return TopicQuery(written, tree, text)


def author_topic(name: str) -> TopicQuery:
    """Return the topic of an author's papers, as `au:"Ada Lovelace"`.

    Raise QueryError if no part of the name can be searched for, or if it is too long.
    """
    return parse_topic(f'au:"{" ".join(_UNQUOTABLE.sub(" ", name).split())}"')


def _too_long(text: str) -> QueryError:
    message = gettext(
        "this topic is too long: the limit is %(most)s characters, or %(any_script)s of any script",
        most=format(LONGEST_QUERY, ","),
        any_script=LARGEST_CANONICAL // 4,
    )
    return QueryError(text[:60] + "...", message, 0)


def topic_kind(text: str) -> TopicKind:
    """Return TRENDING if `text` names the built-in topic. Raise QueryError like `canonical`."""
    return TopicKind.TRENDING if canonical(text) == TRENDING else TopicKind.QUERY


def plain_words(text: str) -> Words:
    """Return the words of any text for ranking; never raise. Without a word, nothing is found."""
    return Words(forms(text))


# --- Writing ------------------------------------------------------------------------------------


def write(query: Query) -> str:
    """Return the canonical text of a normalised tree; parsing it returns the same tree."""
    match query:
        case Words(forms):
            return " ".join(forms)
        case Phrase(forms):
            return f'"{" ".join(forms)}"'
        case Fielded(field, forms):
            return f"{field}:{forms[0]}" if len(forms) == 1 else f'{field}:"{" ".join(forms)}"'
        case Not(operand):
            return f"-{_write_inside(operand)}"
        case Or(operands):
            return " OR ".join(write(operand) for operand in operands)
        case And(operands):
            groups = [write(operand) for operand in operands if isinstance(operand, Words)]
            others = [_write_inside(one) for one in operands if not isinstance(one, Words)]
            return " ".join([" AND ".join(groups), *others]).strip()


def _write_inside(query: Query) -> str:
    """Return the text of one operand, in parentheses if its parts would be separated without."""
    whole = isinstance(query, Phrase | Fielded | Not) or (
        isinstance(query, Words) and len(query.forms) == 1
    )
    return write(query) if whole else f"({write(query)})"


# --- Normalising --------------------------------------------------------------------------------


def _join_words(terms: Sequence[Query]) -> Query:
    """Join the terms of one side: bare words become one ranked group, all other terms must hold."""
    bare = [form for term in terms if isinstance(term, Words) for form in term.forms]
    others = [term for term in terms if not isinstance(term, Words)]
    return _all_of([Words(_without_stutter(bare)), *others] if bare else others)


def _all_of(operands: Iterable[Query]) -> Query:
    flat: set[Query] = set()
    for operand in operands:
        flat.update(operand.operands if isinstance(operand, And) else (operand,))
    return flat.pop() if len(flat) == 1 else And(tuple(sorted(flat, key=_order)))


def _any_of(operands: Iterable[Query]) -> Query:
    flat: set[Query] = set()
    for operand in operands:
        flat.update(operand.operands if isinstance(operand, Or) else (operand,))
    return flat.pop() if len(flat) == 1 else Or(tuple(sorted(flat, key=_order)))


def _none_of(operand: Query) -> Query:
    match operand:
        case Not(inner):
            return inner
        case Phrase((form,)):
            return Not(Words((form,)))
        case _:
            return Not(operand)


def _order(query: Query) -> tuple[int, str]:
    """Return a sort key: words first, as a bare word must not follow NOT; negations last."""
    rank = 0 if isinstance(query, Words) else 2 if isinstance(query, Not) else 1
    return rank, write(query)


def _without_stutter(forms: Sequence[str]) -> tuple[str, ...]:
    return tuple(form for i, form in enumerate(forms) if i == 0 or forms[i - 1] != form)


def _finds_something(query: Query) -> bool:
    match query:
        case Not():
            return False
        case And(operands):
            return any(_finds_something(operand) for operand in operands)
        case Or(operands):
            return all(_finds_something(operand) for operand in operands)
        case _:
            return True


# --- Parsing ------------------------------------------------------------------------------------


class _Kind(StrEnum):
    TERM = "term"  # a complete term: words, a phrase, a field
    OPEN = "("
    CLOSE = ")"
    MINUS = "-"
    AND = "AND"
    OR = "OR"
    NOT = "NOT"
    END = "end"


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: _Kind
    start: int
    term: Query | None = None


_QUOTES = '"\u201c\u201d\u201e'
# Variants of the syntax characters that typing aids and other keyboards produce.
_TYPED = str.maketrans(
    "\uff08\uff09\uff1a\uff0c\uff1b\uff5c\uff0b\uff0d\uff02\u201f\u00ab\u00bb\u300c\u300d"
    "\u300e\u300f\u301d\u301e\u301f\u275d\u275e",
    "():,;|+-" + '"' * 13,
)
# Ends a quoted text, or escapes its end.
_UNQUOTABLE = re.compile(
    "["
    + re.escape(_QUOTES + "".join(chr(c) for c, typed in _TYPED.items() if typed == ord('"')))
    + r"\\]"
)
_DASH = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63"
_PIECE = re.compile(
    rf"""(?P<open>\() | (?P<close>\)) | (?P<quote>[{_QUOTES}])
    | (?P<minus>(?<![^\s(])(?:-(?=[^\s\-)])
        | [{_DASH}](?=["(]|[^\W\d_])(?![^{_DASH}]*[^\s{_DASH}][{_DASH}](?:\s|$))))
    | (?P<field>(?:ti|abs|au|cat|source):)
    | (?P<chunk>(?:\\.|[^\s(){_QUOTES}])+)""",
    re.VERBOSE | re.IGNORECASE,
)
# A full name without quotation marks: au:Geoffrey Hinton, au:Hinton, G. Every word is capitalised;
# the name ends before a parenthesis, a quotation mark, an operator, a field or the end of the text.
_NAME = r"(?:(?!(?:AND|OR|NOT|ANDNOT)\b)[^\W\d_a-z][\w.'\u2019-]*)"
AUTHOR_NAME = re.compile(
    rf"(?<![^\s(-])(?i:au):(?P<name>{_NAME},?(?:[^\S\n]+{_NAME})+)"
    rf"(?=\s*(?:$|[(){_QUOTES}])|\s+(?:(?:AND|OR|NOT|ANDNOT)\b|-|(?i:ti|abs|au|cat|source):))"
)
_VALUE = re.compile(rf"(?:\\.|[^\s(){_QUOTES}])+")
# A list of categories: cat:cs.LG,cs.CL. After a space, only names with a dot: no word has one.
_CATEGORY = r"[A-Za-z][\w-]*(?:\.[\w*-]+)?\*?"
_LISTED = re.compile(
    rf"{_CATEGORY}(?:[,;|+/&]{_CATEGORY}|\s*[,;|+/&]\s*[A-Za-z][\w-]*\.[A-Za-z*][\w*-]*)+"
)
_SPACED_CATEGORY = re.compile(r"\s+(?=[a-z-]{2,8}\.(?:[A-Z*]|[a-z]+-[a-z]))")
_OPERATORS = {
    "&&": (_Kind.AND,),
    "||": (_Kind.OR,),
    "|": (_Kind.OR,),
    "AND": (_Kind.AND,),
    "OR": (_Kind.OR,),
    "NOT": (_Kind.NOT,),
    "ANDNOT": (_Kind.AND, _Kind.NOT),  # as the arXiv API spells it
}


class _Parser:
    """Recursive-descent parser over the tokens of one text."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST_QUERY:
            raise QueryError(
                text[:60] + "...",
                gettext("a topic has at most %(most)s characters", most=LONGEST_QUERY),
                0,
            )
        self.written = text
        self.text = text.translate(_TYPED)
        self.is_calm = calm(self.text) == self.text
        self.scopes: list[Field | None] = []  # per open parenthesis: ti:(graphs OR trees)
        self.pieces = _without_stray_operators(text, self._pieces())
        self.at = 0
        self.depth = 0

    def query(self) -> Query:
        if len(self.pieces) == 1:
            raise self._mistake(gettext("there is no word to search for"), 0)
        found = self._alternatives()
        if self._next.kind is _Kind.CLOSE:
            raise self._mistake(gettext("this parenthesis was never opened"), self._next.start)
        return found

    # Cursor

    @property
    def _next(self) -> _Piece:
        return self.pieces[self.at]

    def _take(self, kind: _Kind) -> bool:
        taken = self._next.kind is kind
        self.at += taken
        return taken

    def _mistake(self, message: str, position: int) -> QueryError:
        return QueryError(self.written, message, position)

    # Grammar

    def _alternatives(self) -> Query:
        operands = [self._group()]
        while self._take(_Kind.OR):
            operands.append(self._group())
        return _any_of(operands)

    def _group(self) -> Query:
        operands = [self._side()]
        while self._take(_Kind.AND):
            operands.append(self._side())
        return _all_of(operands)

    def _side(self) -> Query:
        terms = [self._signed()]
        while self._next.kind in {_Kind.TERM, _Kind.OPEN, _Kind.MINUS, _Kind.NOT}:
            terms.append(self._signed())
        return _join_words(terms)

    def _signed(self) -> Query:
        if not (self._take(_Kind.MINUS) or self._take(_Kind.NOT)):
            return self._term()
        self._deeper()
        operand = self._signed_compound() or self._signed()
        self.depth -= 1
        return _none_of(operand)

    def _signed_compound(self) -> Query | None:
        """Return a negated compound of several words as a phrase, and None for any other term.

        -multi-modal excludes the compound, not every paper that contains both words.
        """
        term = self._next.term
        if not isinstance(term, Words) or len(term.forms) == 1:
            return None
        self.at += 1
        return Phrase(term.forms)

    def _term(self) -> Query:
        piece = self._next
        self.at += 1
        if piece.term is not None:
            return piece.term
        if piece.kind is not _Kind.OPEN:
            raise self._mistake(gettext("a word is missing here"), piece.start)
        self._deeper()
        inner = self._alternatives()
        if not self._take(_Kind.CLOSE):
            raise self._mistake(gettext("this parenthesis is never closed"), piece.start)
        self.depth -= 1
        return inner

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST_QUERY:
            raise self._mistake(
                gettext("too many nested parentheses or negations"), self._next.start
            )

    # Tokens

    def _pieces(self) -> list[_Piece]:
        pieces: list[_Piece] = []
        at = 0
        while match := _PIECE.search(self.text, at):
            found, at = self._piece(match)
            pieces.extend(found)
        return [*pieces, _Piece(_Kind.END, len(self.text))]

    def _piece(self, match: re.Match[str]) -> tuple[list[_Piece], int]:
        """Return the tokens that begin at the match (none for punctuation), and their end."""
        start, end = match.span()
        match match.lastgroup:
            case "open":
                self.scopes.append(self._scope)
                return [_Piece(_Kind.OPEN, start)], end
            case "close":
                self.scopes = self.scopes[:-1]
                return [_Piece(_Kind.CLOSE, start)], end
            case "minus":
                return self._minus(start), end
            case "quote":
                phrase, end = self._quoted(start)
                term = self._of_scope(self.text[start + 1 : end - 1]) or Phrase(phrase)
                return [_Piece(_Kind.TERM, start, term)], end
            case "field":
                return self._fielded(Field(match.group()[:-1].lower()), start, end)
            case _:
                return self._chunk(match.group(), start), end

    def _minus(self, start: int) -> list[_Piece]:
        """Return a minus token, or none if no word follows it, as in a bullet or an arrow."""
        follows = _VALUE.match(self.text, start + 1)
        mere = follows is not None and not forms(follows.group())
        return [] if mere else [_Piece(_Kind.MINUS, start)]

    def _quoted(self, start: int) -> tuple[tuple[str, ...], int]:
        closing = re.compile(rf"(?<!\\)[{_QUOTES}]").search(self.text, start + 1)
        if closing is None:
            raise self._mistake(gettext("this quotation mark is never closed"), start)
        phrase = self._forms(self.text[start + 1 : closing.start()])
        if not phrase:
            raise self._mistake(gettext("there is no word between the quotation marks"), start)
        return phrase, closing.end()

    def _chunk(self, chunk: str, start: int) -> list[_Piece]:
        if chunk in _OPERATORS:
            return [_Piece(kind, start) for kind in _OPERATORS[chunk]]
        found = self._forms(chunk)
        term = self._of_scope(chunk) or Words(found)
        return [_Piece(_Kind.TERM, start, term)] if found else []

    def _forms(self, raw: str) -> tuple[str, ...]:
        """Return the words of `raw`; capitals count unless the whole query is in capitals."""
        return forms_as_written(raw) if self.is_calm else forms(raw.lower())

    @property
    def _scope(self) -> Field | None:
        return self.scopes[-1] if self.scopes else None

    def _of_scope(self, raw: str) -> Query | None:
        """Return a term inside the parentheses of a field; None outside, and for punctuation."""
        return self._in_field(self._scope, raw) if self._scope else None

    def _in_field(self, field: Field, raw: str) -> Query | None:
        values = _field_values(field, raw) if field in _NAMED else [self._words_of(field, raw)]
        terms = [Fielded(field, value) for value in values if value]
        return _any_of(terms) if terms else None

    def _words_of(self, field: Field, raw: str) -> tuple[str, ...]:
        return author_forms(raw) if field is Field.AUTHOR else self._forms(raw)

    def _fielded(self, field: Field, start: int, end: int) -> tuple[list[_Piece], int]:
        if self.text[end : end + 1] and self.text[end] in _QUOTES:
            closing = self._quoted(end)[1]
            raw = self.text[end + 1 : closing - 1]
        elif self.text[end : end + 1] == "(":
            self.scopes.append(field)
            return [_Piece(_Kind.OPEN, start)], end + 1
        elif field is Field.AUTHOR and (name := AUTHOR_NAME.match(self.text, start)):
            raw, closing = name.group("name"), name.end()
        else:
            if field is Field.CATEGORY and (space := _SPACED_CATEGORY.match(self.text, end)):
                end = space.end()
            listed = _LISTED.match(self.text, end) if field in _NAMED else None
            value = listed or _VALUE.match(self.text, end)
            raw, closing = (value.group(), value.end()) if value else ("", end)
        term = self._in_field(field, raw)
        if term is None:
            raise self._mistake(
                gettext("%(field)s: needs a word right after the colon", field=field), start
            )
        return [_Piece(_Kind.TERM, start, term)], closing


_NAMED = frozenset({Field.CATEGORY, Field.SOURCE})
"""Fields that hold names; if several are given with commas, any of them matches."""


def _field_values(field: Field, raw: str) -> list[tuple[str, ...]]:
    values: list[tuple[str, ...]] = []
    for part in re.split(r"[,;|+/&]", raw.lower()):
        name = re.sub(r"[^a-z0-9.*-]", "", part)
        if field is Field.CATEGORY:
            name = re.sub(r"\*+$", "*", name).removesuffix(".*").rstrip(".")
        if re.search(r"[a-z0-9]", name):
            values.append((name,))
    return values


def _without_stray_operators(text: str, pieces: list[_Piece]) -> list[_Piece]:
    """Replace operators that lack an operand with words, as in a title typed in capitals."""
    begins = _where_terms_begin(pieces)
    kept: list[_Piece] = []
    for i, piece in enumerate(pieces):
        before = kept[-1].kind if kept else None
        if piece.kind in {_Kind.AND, _Kind.OR}:
            joins = before in {_Kind.TERM, _Kind.CLOSE} and begins[i + 1]
        elif piece.kind is _Kind.NOT:
            joins = before not in {None, _Kind.OPEN, _Kind.MINUS} and begins[i + 1]
        else:
            joins = True
        kept.append(piece if joins else _as_word(piece))
    return kept


def _where_terms_begin(pieces: list[_Piece]) -> list[bool]:
    begins = [piece.kind in {_Kind.TERM, _Kind.OPEN, _Kind.MINUS} for piece in pieces]
    for i in range(len(pieces) - 2, -1, -1):
        if pieces[i].kind is _Kind.NOT:
            begins[i] = begins[i + 1]
    return begins


def _as_word(piece: _Piece) -> _Piece:
    return _Piece(_Kind.TERM, piece.start, Words((piece.kind.value.lower(),)))
