"""Convert TeX in titles, names and abstracts to Unicode text."""

# ruff: noqa: RUF001  (letters that look alike are what this is about)

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

_MOST_FORMULAS = 100  # per text; further formulas stay as TeX
_DEEPEST_BRACES = 8
_DEEPEST_STYLES = 5  # nested commands: \emph{\textbf{...}}, {\'{\^e}}
_seconds_left: ContextVar[float | None] = ContextVar("seconds left for formulas", default=None)

_FORMULA = re.compile(
    r"(?<![\\$])(?P<sign>\$\$?)(?P<a>[^$]{1,300})(?P=sign)(?!\$)"
    r"|(?<!\\)\\\((?P<b>[^$]{1,300}?)(?<!\\)\\\)|(?<!\\)\\\[(?P<c>[^$]{1,300}?)(?<!\\)\\\]"
)
_OPERATOR = re.compile(r"[<>=~+±\u00d7≤≥≈-]{1,2}")  # as in "more than $>$25 runs"
_DEGREES = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))")
_TEXLIKE = re.compile(r"[\\^_{]")
_PLAIN_FORMULA = re.compile(r"[\w\s.,:;+*/=<>()\[\]!|°-]+")

_COMBINING = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304",
    ".": "\u0307", "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328",
    "r": "\u030a", "d": "\u0323", "b": "\u0331",
}  # fmt: skip
_PLAIN = r"\\[ij](?![A-Za-z])|[^\W\d_]"  # a letter under an accent, possibly accented already
_ACCENT = re.compile(
    rf"""(?P<open>(?<!\\[A-Za-z])\{{)?\\(?:
        (?P<sign>['`^"~=.])\s?(?:\{{\s?(?P<a>{_PLAIN})\s?\}}|(?P<b>{_PLAIN}))
      | (?P<word>[uvHckrdb])(?:\{{\s?(?P<c>{_PLAIN})\s?\}}|\s(?P<d>{_PLAIN}))
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
_CAPITALS = {
    name: unicodedata.lookup(f"GREEK CAPITAL LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")
    for name in ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega")
}
_SIGNS = {
    "deg": "°", "textdegree": "°", "times": "\u00d7", "pm": "±", "sim": "~", "leq": "≤", "le": "≤",
    "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠", "approx": "≈", "rightarrow": "→", "to": "→",
    "leftarrow": "←", "infty": "∞", "ldots": "…", "dots": "…", "cdot": "·", "eg": "e.g.",
    "ie": "i.e.", "etc": "etc", "textless": "<", "textgreater": ">", "textendash": "–",
    "textemdash": "—", "textquoteleft": "‘", "textquoteright": "’", "textquotedblleft": "“",
    "textquotedblright": "”", "textregistered": "®", "texttrademark": "™", "copyright": "©",
    "pounds": "£", "texteuro": "€", "euro": "€", "textmu": "µ", "textbullet": "•", "textbar": "|",
    "textasciitilde": "~", "textasciicircum": "^", "S": "§", "P": "¶", "dag": "†", "ddag": "‡",
    "ell": "ℓ", "LaTeX": "LaTeX", "TeX": "TeX", "BibTeX": "BibTeX", "varepsilon": "ε",
    "varphi": "φ", "vartheta": "θ", "textunderscore": "_", "textdollar": "$", "textpm": "±",
    "texttimes": "\u00d7", "lq": "‘", "rq": "’",
}  # fmt: skip
_SYMBOLS = _LETTERS | _GREEK | _CAPITALS | _SIGNS
_SYMBOL = re.compile(
    rf"(?P<open>\{{)?\\(?P<name>{'|'.join(_SYMBOLS)})(?![A-Za-z])"
    r"(?:\{\}|(?P<close>\})|(?P<gap> ))?"
)
# arXiv itself parses \beta as the accent \b over "eta", and writes \b{eta}.
_TORN = re.compile(r"\\([a-z])\{([a-z]{1,6})\}")
_STYLED = re.compile(
    r"\\(?:emph|text(?:it|bf|tt|sc|sf|rm|up)?|underline|mbox|url|math(?:rm|it|bf|tt|sf)"
    r"|it|bf|tt|em|sc)\s?\{([^{}]*)\}"
)
_STYLED_TEXT = re.compile(
    r"\\(?:text(?:md|sl|normal)|math(?:bb|cal|frak|scr|ds)|boldsymbol|bm|ensuremath|operatorname|hbox"
    r"|uline|section|subsection|paragraph)\*?\s?\{([^{}]*)\}"
)
_STYLED_GROUP = re.compile(
    r"\{\\(?:bf|it|em|tt|sc|rm|sl|sf|small|large|bfseries|itshape) ([^{}]*)\}"
)
_COLORED = re.compile(r"\\(?:textcolor|colorbox)\s?(?:\[[^\[\]]*\])?\{[^{}]*\}\s?\{([^{}]*)\}")
_SCRIPT = re.compile(r"\\text(super|sub)script\s?\{([^{}]*)\}")
_LINKED = re.compile(r"\\href\s?\{([^{}]*)\}\s?\{[^{}]*\}")
# Commands that are no part of the sentence (citations, footnotes, labels), with a space before.
_ASIDE = re.compile(
    r"[~ ]{0,2}\\(?:[a-zA-Z]{0,6}cite[a-z]{0,8}\*?|footnote(?:text)?|thanks|label|index"
    r"|(?:eq|auto|c|C)?ref|color|vspace|hspace|todo)\s?(?:\[[^\[\]]{0,100}\]){0,2}"
    r"\{(?:[^{}]|\{[^{}]{0,200}\}){0,400}\}"
)
_LAYOUT = re.compile(
    r"\\(?:begin|end)\{[a-z]{1,20}\*?\}(?:\[[^\[\]]{0,40}\])?|\\\\(?:\[[^\[\]]{0,10}\])?(?=\s|$)"
    r"|\\(?:noindent|newline|linebreak|par|item|xspace|quad|qquad|centering|smallskip|medskip|bigskip"
    r"|protect|footnotemark)(?![A-Za-z])(?:\{\})?"
)
_ESCAPED = re.compile(r"\\([%&#_$ ])")
_SET = re.compile(r"\\([{}])")
_SPACE = re.compile(r"(?<!\\)\\([,;:!/-])")
_NOTHING = re.compile(r"\\([~^])\{\}")
# Braces that protect capitals in a bibliography: {BERT}. Sets, as in {0, 1}, are kept.
_KEPT_CAPITALS = re.compile(r"(?<![\\\w^_$}])\{([^\W\d_a-z][\w .'-]{0,80})\}")
_QUOTED = re.compile(r"``(?P<two>[^`]{1,300}?)''|(?<![\w`])`(?P<one>[^`'\n]{1,80})'(?![\w'])")
_DASHES = re.compile(r"(?<=[\w)\].,%”])(---?)(?=[\w(\[“$\\])|(?<= )(---?)(?= )")
_TIE = re.compile(r"(?<=[^\W\d_][.\w])~(?=\w)|(?<=\d)~(?=[^\W\d_])")

# TeX puts space before \log; without it, the text would join both into one word.
_FUNCTION = re.compile(
    r"(?<=[\w)\]])\\(?=(?:log|ln|lg|exp|sin|cos|tan|max|min|lim|sup|inf|det|gcd)(?![A-Za-z]))"
)

_RAISED = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_LOWERED = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
_RAISED_PART = re.compile(r"\^(?:\{([0-9+\-n]{1,4})\}|([0-9n]))")
_LOWERED_PART = re.compile(r"_(?:\{([0-9+-]{1,4})\}|([0-9]))")


def untex(text: str) -> str:
    """Return `text` with formulas, accents and simple commands converted to Unicode.

    Raise nothing: if a formula or command cannot be parsed, it stays as TeX.
    """
    if "$" in text or "\\(" in text or "\\[" in text:
        text = _without_formulas(text)
    if "\\" in text:
        text = _without_commands(text)
    if "{" in text:
        text = _KEPT_CAPITALS.sub(r"\1", text).replace("{,}", ",")
    if "`" in text:
        text = _QUOTED.sub(_quoted, text)
    if "--" in text:
        text = _DASHES.sub(_dash, text)
    return _TIE.sub(" ", text)


def _without_commands(text: str) -> str:
    text = _LAYOUT.sub(" ", _ASIDE.sub("", text))
    for _ in range(_DEEPEST_STYLES):
        before = text
        # Styles first: the braces of \textbf{\'E} belong to the command, not to the accent.
        text = _COLORED.sub(r"\1", _STYLED.sub(r"\1", _LINKED.sub(r"\1", text)))
        text = _STYLED_TEXT.sub(r"\1", _STYLED_GROUP.sub(r"\1", text))
        text = _SCRIPT.sub(_script, text)
        text = _ACCENT.sub(_accented, _TORN.sub(_mended, text))
        if text == before:
            break
    text = _DEGREES.sub("°", text)
    text = _STYLED.sub(r"\1", _SYMBOL.sub(_symbol, _NOTHING.sub(r"\1", text)))
    text = _SPACE.sub(lambda found: " " if found.group(1) in ",;:" else "", text)
    return _SET.sub(r"\1", _ESCAPED.sub(r"\1", text))


def _script(match: re.Match[str]) -> str:
    table = _RAISED if match[1] == "super" else _LOWERED
    return match[2].translate(table) if set(match[2]) <= {chr(code) for code in table} else match[2]


def _quoted(match: re.Match[str]) -> str:
    return f"“{match['two']}”" if match["two"] else f"‘{match['one']}’"


def _dash(match: re.Match[str]) -> str:
    return "–" if len(match.group()) == 2 else "—"


@contextmanager
def formulas_within(seconds: float) -> Iterator[None]:
    """Limit the time spent on converting formulas in this context; the rest then stay as TeX.

    The papers of a real day take a tenth of a second; a file full of formulas would take minutes.
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
            at = match.start() + len(match["sign"] or "\\(")
        elif formula := _converted_in_time((match["a"] or match["b"] or match["c"]).strip()):
            parts += [text[done : match.start()], formula]
            done = at
    return "".join(parts) + text[done:]


def _is_formula(match: re.Match[str]) -> bool:
    """Return whether a match is a formula and not prices, as in "$5 and $10".

    Braces must be balanced. If it has no TeX or operator, Pandoc's rule applies: no space just
    inside the dollar signs, no digit after them.
    """
    inner, behind = match["a"], match.string[match.end() : match.end() + 1]
    if inner is None:
        return True  # \( and \[ are unambiguous
    if inner.count("{") != inner.count("}"):
        return False
    if _OPERATOR.fullmatch(inner):
        return True
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
    """Return a formula as text; "" if it cannot be parsed or is nested too deep. Cached."""
    if formula.count("{") > 40 or _brace_depth(formula) > _DEEPEST_BRACES:
        return ""
    formula = _DEGREES.sub("°", _STYLED.sub(r"\1", formula))
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
    accented = unicodedata.normalize("NFC", letter + mark)
    if match["d"] and len(accented) > 1:
        return match[0]  # if no such letter exists, it is a command and a word, not an accent
    return _unbraced(match, accented)


def _symbol(match: re.Match[str]) -> str:
    # TeX removes the space after a command; authors rely on that only within a word: stra\ss e,
    # \Delta F508.
    glued = match["name"] in _LETTERS or match["name"] in _CAPITALS
    gap = "" if glued else match["gap"] or ""
    return _unbraced(match, _SYMBOLS[match["name"]]) + gap


def _mended(match: re.Match[str]) -> str:
    return _GREEK.get(match[1] + match[2], match[0])


def _unbraced(match: re.Match[str], text: str) -> str:
    opened, closed = match["open"] or "", match["close"] or ""
    return text if opened and closed else opened + text + closed
