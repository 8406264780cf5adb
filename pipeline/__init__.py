"""Paperboy: a daily newsletter of research papers.

A paper meets these modules top to bottom, and never travels back up:

    sources -> ingest -> matching -> editions -> rendering -> message -> smtp -> inbox
                                        |                        |
                                     storage  <---------------- dispatch

`domain` has the words, `tasks` says when each step runs, `cli` runs the same steps by hand, and
`bootstrap` joins the parts.
"""
