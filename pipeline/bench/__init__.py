"""Measure, side by side in one run, what Paperboy's hot paths cost; ratios, not seconds.

    send: outbox (a temporary database, filled) -> rounds of legs -> report

A leg delivers the same mails one way: `send` the real dispatcher, `rivals` what it is compared
with. `sinks` has the servers that take the mail and forget it, `oracle` the proof that the fast
way says what the slow way says, `steps` where the time goes.

    web: papers (made up, stored) -> a server in a process of its own -> searches and pages
    match: crowd (papers, topics and readers made up) -> topics against papers, beside others
    quality: labelled (sets that people judged) -> how good the order and the floor are
"""
