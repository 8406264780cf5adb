"""Match papers with topics and select the papers of each digest. Pure: no clock, no I/O.

words        tokenizer: folded forms and stems of a text
english      base forms of English words
names        author names compared with the name in a query
query        the topic language: parsed into a tree, written as one canonical text
hints        questions about a valid query that looks like a slip
neighbours   narrower and broader variants of a query
corpus       document frequencies, which give the idf of a word
postings     positional index of the words of some papers
scoring, floor, fields, phrases    BM25 scores, relevance threshold, filters, matched phrases
mentions     spans of a text that mention matched phrases
meaning      semantic similarity of a topic and a paper, if an embedding model is configured
index        query -> papers with scores
topics       many topics against papers -> matches
ranking      matches -> picks of a digest
evaluation   rankings of labelled data sets, without the relevance threshold
"""
