"""Lists of papers that people paste or upload, and citations for reference managers. Pure.

`parse` reads BibTeX, RIS, CSL-JSON, and lines of arXiv ids, DOIs, links or titles, also mixed.
`read_works` reads the answer of ORCID or arXiv about an author.
`bibtex`, `ris`, `csl_json` and `markdown` write papers; `parse` reads what they write.
"""

from pipeline.references.author_works import read_works
from pipeline.references.reading import (
    MOST_ENTRIES,
    MOST_OCTETS,
    Parsed,
    Reference,
    Unreadable,
    merged,
    parse,
)
from pipeline.references.writing import (
    Notes,
    bibtex,
    citation_key,
    csl_json,
    markdown,
    ris,
    year_of,
)

__all__ = [
    "MOST_ENTRIES",
    "MOST_OCTETS",
    "Notes",
    "Parsed",
    "Reference",
    "Unreadable",
    "bibtex",
    "citation_key",
    "csl_json",
    "markdown",
    "merged",
    "parse",
    "read_works",
    "ris",
    "year_of",
]
