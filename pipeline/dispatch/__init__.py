"""Send the queued deliveries: claim, compose, send, record the verdict.

`dispatcher` takes a delivery from the outbox to the mail server, `compose` makes its bytes,
`senders` has the sender threads and the queue before them, and `group_commit` writes their marks
and settlements. `retry_policy` turns an SMTP verdict into a settlement, `throttle` computes the
throttle after a refusal, and `shared_throttle` limits claims by throttles, quotas and the circuit
breaker. `controls` pauses, resumes and cancels on behalf of the operator.
"""

from pipeline.dispatch.dispatcher import Dispatcher, DispatchStoppedError, Tally
from pipeline.dispatch.retry_policy import settlement
from pipeline.dispatch.shared_throttle import Quota

__all__ = ["DispatchStoppedError", "Dispatcher", "Quota", "Tally", "settlement"]
