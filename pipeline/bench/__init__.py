"""Benchmarks of Paperboy's hot paths, side by side with alternatives; ratios, not seconds.

    send: outbox (a temporary database, filled) -> rounds of legs -> report

A leg sends the same mails in one way: `send` has the real dispatcher, `rivals` the alternatives.
`sinks` has the servers that accept and discard the mail, `oracle` checks that fast rendering has
the same content as plain rendering, `steps` measures CPU time by step.

    web: papers (synthetic, stored) -> a server in a process of its own -> searches and pages
    match: crowd (synthetic papers, topics and readers) -> topics against papers, alternatives
    quality: labelled (sets with relevance grades by people) -> quality of ranking and threshold
"""
