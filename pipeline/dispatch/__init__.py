"""Send what is owed: claim, compose, send, record the verdict.

`dispatcher` is the way of a delivery, `decisions` what a verdict means for it, `committer` why a
crash cannot make the table lie, `ready` what waits between composing and sending. `pacing` is what
may be claimed now, `pace` how fast to go on after a refusal, `halting` how an operator stops it.
"""

from pipeline.dispatch.decisions import settlement
from pipeline.dispatch.dispatcher import Dispatcher, DispatchStoppedError, Tally
from pipeline.dispatch.pacing import Rate

__all__ = ["DispatchStoppedError", "Dispatcher", "Rate", "Tally", "settlement"]
