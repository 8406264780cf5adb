"""Benchmarks of Paperboy's hot paths, side by side with alternatives; ratios, not seconds.

    send: outbox (a temporary database, filled) -> rounds of legs -> report

A leg sends the same mails in one way: `send` has the real dispatcher, `baselines` the alternatives.
It checks first that fast rendering has the same content as plain rendering. `sinks` has the servers
that accept and discard the mail, `profile` measures CPU time by step.

    web: synthetic (stored papers) -> a server in its own process -> searches and pages
    match: synthetic (papers, topics and readers) -> topics against papers, alternatives
    quality: labelled sets (graded by people) -> quality of ranking and threshold
"""
