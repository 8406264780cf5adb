"""Send the queued deliveries: claim, compose, send, record the verdict.

`dispatcher` takes a delivery from the outbox to the mail server, `decisions` turns an SMTP verdict
into a settlement, `committer` writes marks and settlements in group commits, `ready` is the queue
between composing and sending, `pool` holds the sender threads. `pacing` limits claims by quotas,
rate limits and the circuit breaker, `pace` computes throttling after a refusal, `halting` holds,
resumes and cancels on behalf of the operator.
"""

from pipeline.dispatch.dispatcher import Dispatcher, DispatchStoppedError, Tally
from pipeline.dispatch.retry_policy import settlement
from pipeline.dispatch.shared_throttle import Quota

__all__ = ["DispatchStoppedError", "Dispatcher", "Quota", "Tally", "settlement"]
