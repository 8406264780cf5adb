"""Author names match in each printed form and never match another person."""

from __future__ import annotations

import pytest

from pipeline.matching.author_names import author_forms, keys, names_match, wanted_keys

SAME = [
    ("Frederika Holm", "F. Holm"),
    ("Frederika Holm", "Holm, F."),
    ("Benedict Tan Li", "B. T. Li"),
    ("Tanizaki Rin", "T. Rin"),
    ("Jean-Luc Holm", "J.-L. Holm"),
    ("Jean-Luc Holm", "Jean Luc Holm"),
    ("Jean-Luc Holm", "Holm JL"),
    ("Holm JA", "Jane A. Holm"),
    ("Xiaoming Li", "Xiao-Ming Li"),
    ("Xiaoming Li", "X.-M. Li"),
    ("Omar AlSayed", "Omar Al-Sayed"),
    ("Ali Sayed", "Ali al-Sayed"),
    ("Piet van der Velde", "P. van der Velde"),
    ("Piet Vandervelde", "Piet van der Velde"),
    ("Piet van der Velde", "Piet Velde"),
    ("Ana de la Torre", "A. Delatorre"),
    ("J\u00fcrgen M\u00fcller", "Juergen Mueller"),
    ("Juergen Mueller", "J\u00fcrgen M\u00fcller"),
    ("Jurgen Muller", "J\u00fcrgen M\u00fcller"),
    ("S\u00f8ren \u00d8stby", "Soeren Oestby"),
    ("\u0141ukasz Wr\u00f3bel", "Lukasz Wrobel"),
    ("Anna Wei\u00df", "A. Weiss"),
    ("L\u00fc Wei", "Lyu Wei"),
    ("Dmitry Orlov", "Dmitrii Orlov"),
    ("Ana Ruiz", "Ana Ruiz-Soler"),
    ("Ana Ruiz Soler", "Ana Ruiz-Soler"),
    ("John Holm", "John Holm Jr."),
    ("John Holm III", "J. Holm III"),
    ("Holm, Ada", "Ada Holm"),
    ("Ada Holm", "ADA HOLM"),
    ("Theodor Holm", "Th. Holm"),
    ("Sean O'Neil", "Sean O\u2019Neil"),
    ("Andrew Ng", "A. Y. Ng"),
    ("ng jp", "J. P. Ng"),
    ("ng jp", "John Paul Ng"),
    ("roe jp", "John Paul Roe"),
    ("Theodor Holm", "Holm Th."),
    ("Roe KA", "Karl A. Roe"),
    ("John Doe", "Doe JP"),
    ("John Doe", "Doe, JP"),
    ("Moon JHK", "Jae Hyun K. Moon"),
    ("Xu LI", "Li Xu"),
    ("Ada van der Holm", "Ada der Holm"),
    ("Roe JR", "Roe Jr."),
    ("Haakon Roe", "H\u00e5kon Roe"),
    ("Goethe", "G\u00f6the"),
    ("Yuri Orlov", "Yu. Orlov"),
    ("Christa Holm", "Chr. Holm"),
    ("Ada Bo Cy Du El Fa", "Adabo Cydu El Fa"),
    ("Ana Maria del Mar Ruiz", "Anamaria Delmar Ruiz"),
    ("Nu Wei", "Nyu Wei"),
    ("Sergey Orlov", "Sergej Orlov"),
]
DIFFERENT = [
    ("Frederika Holm", "P. Holm"),
    ("Maria Holm", "Maria H. Lund"),
    ("John Holm Jr", "John Holm Sr."),
    ("John Holm", "Jane Holm"),
    ("Xue Li", "Xu Li"),
    ("Bo Li", "Barbara Olivia Li"),
    ("Michal Holm", "Michael Holm"),
    ("Minh Le", "Minh Tran"),
    ("Le Minh", "Tran Minh"),
    ("E. Holm", "Anna Holm"),
    ("A. K. Holm", "A. Holm"),
    ("Jan van Dam", "Jan van Delft"),
    ("Jae Moon", "Jaehyun Moon"),
    ("Mary Ann Holm", "Mary Beth Holm"),
    ("Elsa Cho", "E. Cheng"),
    ("J. P.", "John P."),
    ("Yuri Orlov", "Ya. Orlov"),
    ("A. K. Roe", "Ak Roe"),
    ("Le Roe", "Roe"),
    ("John Roe II", "John Roe III"),
    ("Moon JHKL", "Jae Hyun Ko Lim Moon"),
    ("Ada", ""),
    ("Ada Holm", "Ada"),
    ("Ada Ada Holm", "Ada Holm"),
    ("J. J. Holm", "J. Holm"),
    ("A. Jr.", "A. Roe"),
    ("Bo Holm", "Berta Olga Holm"),
    ("Anna Frey", "Anna Frei"),
    ("Ada Bo Cy Du El Fa Gu", "Adabo Cydu El Fa Gu"),  # if there are seven names, none are joined
]


@pytest.mark.parametrize(("asked", "printed"), SAME)
def test_name_variants_of_one_person_match(asked, printed):
    wanted = author_forms(asked)

    assert names_match(printed, wanted)
    assert keys(printed) & wanted_keys(wanted)


@pytest.mark.parametrize(("asked", "printed"), DIFFERENT)
def test_similar_names_of_different_persons_do_not_match(asked, printed):
    assert not names_match(printed, author_forms(asked))
