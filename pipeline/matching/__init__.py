"""Which papers belong to which topic, and which of them a reader gets. Pure: no clock, no I/O.

    text -> words -> query (what a reader wants)  \\
                                                   index -> ranking (which papers fill a digest)
    papers -> words -> statistics, postings       /
"""
