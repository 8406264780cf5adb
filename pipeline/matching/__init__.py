"""Which papers belong to which topic, and which of them a reader gets. Pure: no clock, no I/O.

words        text as words that compare equal
english      the base form of a word
names        whether an author may be the person asked for
query        what a reader writes, as a tree and as one canonical text
hints        what they may have meant
neighbours   what to write to see less, or more
corpus       which words are rare
postings     where every word of some papers stands
scoring, floor, fields, phrases    how well, whether at all, by whom, and by which words
mentions     where a text says what matched
meaning      how alike a topic and a paper are, where a model tells
index        papers -> scores
topics       many topics against papers -> matches
ranking      matches -> picks
evaluation   any papers, any topics: for measuring on labelled sets
"""
