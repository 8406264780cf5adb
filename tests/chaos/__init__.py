"""The promise about deliveries, proved by breaking things: see docs/chaos.md.

`killing` is the run, `visiting` the one in which other processes open the database, `victims` the
processes that die, `sink` the mail server that remembers, `stage` what they all stand on, `judging`
what must be true afterwards.
"""
