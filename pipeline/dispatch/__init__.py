"""Send the queued deliveries: claim, compose, send, record the verdict.

`dispatcher` takes a delivery from the outbox to the mail server, `compose` makes its bytes,
`senders` has the sender threads and their queue, `retry_policy` turns a decision of `smtp` into a
settlement, and `group_commit` writes marks and settlements. `shared_throttle` limits claims by
quotas, throttles and the circuit breaker, `throttle` computes throttling after a refusal, and
`controls` holds, resumes and cancels on behalf of the operator.
"""

from pipeline.dispatch.dispatcher import Dispatcher, DispatchStoppedError, Tally
from pipeline.dispatch.retry_policy import settlement_of
from pipeline.dispatch.shared_throttle import Quota

__all__ = ["DispatchStoppedError", "Dispatcher", "Quota", "Tally", "settlement_of"]
