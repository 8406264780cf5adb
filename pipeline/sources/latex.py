"""The TeX that people write into titles, names and abstracts, as Unicode text."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexWalkerError

_MOST_FORMULAS = 100  # in one text; later ones stay as they are written
_DEEPEST_BRACES = 8
_seconds_left: ContextVar[float | None] = ContextVar("seconds left for formulas", default=None)

_FORMULA = re.compile(r"(?<![\\$])(\$\$?)([^$]{1,300})\1(?!\$)")
_TEXLIKE = re.compile(r"[\\^_{]")
_PLAIN_FORMULA = re.compile(r"[\w\s.,:;+*/=<>()\[\]!|-]+")

_COMBINING = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304",
    ".": "\u0307", "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328",
    "r": "\u030a", "d": "\u0323", "b": "\u0331",
}  # fmt: skip
_PLAIN = r"\\[ij](?![A-Za-z])|[A-Za-z]"  # what an accent can sit on
_ACCENT = re.compile(
    rf"""(?P<open>\{{)?\\(?:
        (?P<sign>['`^"~=.])\s?(?:\{{\s?(?P<a>{_PLAIN})\s?\}}|(?P<b>{_PLAIN}))
      | (?P<word>[uvHckrdb])(?:\{{\s?(?P<c>{_PLAIN})\s?\}}|\s(?P<d>{_PLAIN})(?![A-Za-z]))
    )(?P<close>\}})?""",
    re.X,
)
_LETTERS = {
    "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "aa": "å", "AA": "Å", "ae": "æ",
    "AE": "Æ", "oe": "œ", "OE": "Œ", "i": "\u0131", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ",
    "TH": "Þ", "dj": "đ", "DJ": "Đ",
}  # fmt: skip
_GREEK = {
    name: unicodedata.lookup(f"GREEK SMALL LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")
    for name in (
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
        "lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
    )
}  # fmt: skip
_SIGNS = {
    "deg": "°", "times": "\u00d7", "pm": "±", "sim": "~", "leq": "≤", "geq": "≥", "approx": "≈",
    "rightarrow": "→", "infty": "∞", "ldots": "…", "eg": "e.g.", "ie": "i.e.", "etc": "etc",
}  # fmt: skip
_SYMBOLS = _LETTERS | _GREEK | _SIGNS
_SYMBOL = re.compile(
    rf"(?P<open>\{{)?\\(?P<name>{'|'.join(_SYMBOLS)})(?![A-Za-z])"
    r"(?:\{\}|(?P<close>\})|(?P<gap> ))?"
)
# arXiv itself takes \beta for the accent \b over "eta", and writes \b{eta}.
_TORN = re.compile(r"\\([a-z])\{([a-z]{1,6})\}")
_STYLED = re.compile(
    r"\\(?:emph|text(?:it|bf|tt|sc|sf|rm|up)?|underline|mbox|url|math(?:rm|it|bf|tt|sf)"
    r"|it|bf|tt|em|sc)\s?\{([^{}]*)\}"
)
_STYLED_GROUP = re.compile(r"\{\\(?:bf|it|em|tt|sc) ([^{}]*)\}")
_LINKED = re.compile(r"\\href\s?\{([^{}]*)\}\s?\{[^{}]*\}")
_ESCAPED = re.compile(r"\\([%&#_$ ])")
_TIE = re.compile(r"(?<=[^\W\d_][.\w])~(?=\w)")

# TeX sets \log apart from what is before it; as text it would be one word with it.
_FUNCTION = re.compile(
    r"(?<=[\w)\]])\\(?=(?:log|ln|lg|exp|sin|cos|tan|max|min|lim|sup|inf|det|gcd)(?![A-Za-z]))"
)

_RAISED = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_LOWERED = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
_RAISED_PART = re.compile(r"\^(?:\{([0-9+\-n]{1,4})\}|([0-9n]))")
_LOWERED_PART = re.compile(r"_(?:\{([0-9+-]{1,4})\}|([0-9]))")


def untex(text: str) -> str:
    """`text` with its formulas, accents and simple commands as Unicode.

    Never fails: what cannot be read stays as it was written.
    """
    if "$" in text:
        text = _without_formulas(text)
    if "\\" in text:
        # Styles first: the braces of \textbf{\'E} belong to the command, not to the accent.
        text = _STYLED.sub(r"\1", _LINKED.sub(r"\1", text))
        text = _STYLED_GROUP.sub(r"\1", text)
        text = _ACCENT.sub(_accented, _TORN.sub(_mended, text))
        text = _STYLED.sub(r"\1", _SYMBOL.sub(_symbol, text))
        text = _ESCAPED.sub(r"\1", text)
    return _TIE.sub(" ", text)


@contextmanager
def formulas_within(seconds: float) -> Iterator[None]:
    """Formulas met after that many seconds of reading formulas stay as they are written.

    A real day needs a tenth of a second; a file made of formulas would take minutes.
    """
    token = _seconds_left.set(seconds)
    try:
        yield
    finally:
        _seconds_left.reset(token)


def _without_formulas(text: str) -> str:
    parts: list[str] = []
    done = at = 0
    for _ in range(_MOST_FORMULAS):
        match = _FORMULA.search(text, at)
        if match is None or _out_of_time():
            break
        at = match.end()
        if not _is_formula(match):
            at = match.start() + len(match[1])
        elif formula := _converted_in_time(match[2].strip()):
            parts += [text[done : match.start()], formula]
            done = at
    return "".join(parts) + text[done:]


def _is_formula(match: re.Match[str]) -> bool:
    """Braces in pairs, and Pandoc's rule: no space just inside, no digit behind: "$5 and $10"."""
    inner, behind = match[2], match.string[match.end() : match.end() + 1]
    if inner.count("{") != inner.count("}"):
        return False
    if _TEXLIKE.search(inner):
        return not inner[0].isdigit() or inner[-1] != " "
    return inner == inner.strip() and not behind.isdigit()


def _out_of_time() -> bool:
    left = _seconds_left.get()
    return left is not None and left <= 0


def _converted_in_time(formula: str) -> str:
    left = _seconds_left.get()
    if left is None:
        return _converted(formula)
    started = time.monotonic()
    text = _converted(formula)
    _seconds_left.set(left - (time.monotonic() - started))
    return text


@lru_cache(maxsize=4096)
def _converted(formula: str) -> str:
    """Empty when it cannot be read."""
    if formula.count("{") > 40 or _brace_depth(formula) > _DEEPEST_BRACES:
        return ""
    formula = _STYLED.sub(r"\1", formula)
    formula = _RAISED_PART.sub(lambda m: (m[1] or m[2]).translate(_RAISED), formula)
    formula = _LOWERED_PART.sub(lambda m: (m[1] or m[2]).translate(_LOWERED), formula)
    if _PLAIN_FORMULA.fullmatch(formula):
        return formula
    formula = _FUNCTION.sub(r"\\ \\", formula)
    try:
        text: str = _READER.latex_to_text(re.sub(r"(?<!\\)[%&#]", r"\\\g<0>", formula))
    except (LatexWalkerError, RecursionError, ValueError, IndexError, KeyError, TypeError):
        return ""
    return " ".join(text.split())


_READER = LatexNodes2Text(
    math_mode="text", keep_comments=True, strict_latex_spaces="based-on-source"
)


def _brace_depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    return deepest


def _accented(match: re.Match[str]) -> str:
    mark = _COMBINING[match["sign"] or match["word"]]
    letter = (match["a"] or match["b"] or match["c"] or match["d"]).removeprefix("\\")
    return _unbraced(match, unicodedata.normalize("NFC", letter + mark))


def _symbol(match: re.Match[str]) -> str:
    # TeX eats the space behind a command, which people mean to only within a word: stra\ss e.
    gap = "" if match["name"] in _LETTERS else match["gap"] or ""
    return _unbraced(match, _SYMBOLS[match["name"]]) + gap


def _mended(match: re.Match[str]) -> str:
    return _GREEK.get(match[1] + match[2], match[0])


def _unbraced(match: re.Match[str], text: str) -> str:
    opened, closed = match["open"] or "", match["close"] or ""
    return text if opened and closed else opened + text + closed
