"""Paperboy: a daily newsletter of research papers.

A paper passes through these modules from left to right, and never back:

    sources -> ingest -> matching -> editions -> rendering -> message -> smtp -> inbox
                                        |                        |
                                     storage  <---------------- dispatch

`domain` defines the types, `tasks` schedules each step, `cli` runs the same steps by hand, and
`bootstrap` builds and connects the parts.
"""
