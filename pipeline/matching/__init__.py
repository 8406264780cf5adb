"""Match papers with topics and select the papers of each digest. Pure: no clock, no I/O.

tokens         tokenizer: folded forms and stems of a text
stemming       base forms of English words
author_names   author names compared with the name in a query
query          the topic language: parsed into a tree, written as one canonical text
people         the papers of one name by person, and suggested authors
suggestions    hints about likely slips in a query, and narrower or broader variants
corpus         document frequencies, which give the idf of a word
postings       positional index of the words of some papers
scoring, threshold, fields    BM25 scores, relevance threshold, filters
highlights     the matched phrases of a paper, and the spans of a text that mention them
semantic       semantic similarity of a topic and a paper, if an embedding model is configured
index          query -> papers with scores
match          many topics against papers -> matches; rankings without the threshold
ranking        matches -> picks of a digest
"""
