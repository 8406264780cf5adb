"""Send what is owed: claim, compose, send, record the verdict.

`dispatcher` is the way of a delivery, `decisions` what a verdict means for it, `committer` why a
crash cannot make the table lie, `ready` what waits between composing and sending.
"""

from pipeline.dispatch.decisions import settlement
from pipeline.dispatch.dispatcher import Dispatcher, DispatchStoppedError, Tally

__all__ = ["DispatchStoppedError", "Dispatcher", "Tally", "settlement"]
