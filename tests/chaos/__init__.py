"""Chaos tests for the delivery guarantee: kill processes, then check the outbox (docs/chaos.md).

`killing` is the main run, `visiting` the one in which other processes open the database, `victims`
the processes that are killed, `sink` the mail server that logs each accepted message, `stage` the
shared fixtures, and `judging` the invariants that must hold afterwards.
"""
