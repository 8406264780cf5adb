"""Join, confirm, change, leave, erase: what a reader does to their own subscription.

    wishes     what somebody asks for, and whether it can be had
    asking     who may have how much mail sent to an address they have not proved to be theirs
    joining    the form stores a request; its token, POSTed, makes a subscriber
    changing   topics, hour, pauses, another address, the way back to all this
    leaving    out with one click, and back within a month
    consent    the words that somebody agrees to
    holding    what we hold about a reader: to look at, to take along, to erase
    moving     everybody at once, to another installation and from other newsletters
    csv_reader lists as spreadsheets and other newsletters write them

Every function is one transaction: killed anywhere it has done nothing. Whoever runs second finds
the row locked, waits, and then finds it changed; the UPDATEs name the state they leave.
"""

from pipeline.signup import csv_reader, moving
from pipeline.signup.changing import (
    ask_link,
    ask_new_address,
    change,
    confirm_new_address,
    pause,
    pause_of,
)
from pipeline.signup.consent import WORDING
from pipeline.signup.holding import (
    PastDigest,
    PastSkip,
    Preferences,
    ask_data_link,
    erase,
    erase_by_id,
    everyone,
    export,
    export_of,
    find,
    wishes_of,
)
from pipeline.signup.joining import Confirmed, Request, add, ask, confirm, read_request
from pipeline.signup.leaving import UNDO, Why, leave, say_why, undo
from pipeline.signup.wishes import Wishes, valid_address

__all__ = [
    "UNDO",
    "WORDING",
    "Confirmed",
    "PastDigest",
    "PastSkip",
    "Preferences",
    "Request",
    "Why",
    "Wishes",
    "add",
    "ask",
    "ask_data_link",
    "ask_link",
    "ask_new_address",
    "change",
    "confirm",
    "confirm_new_address",
    "csv_reader",
    "erase",
    "erase_by_id",
    "everyone",
    "export",
    "export_of",
    "find",
    "leave",
    "moving",
    "pause",
    "pause_of",
    "read_request",
    "say_why",
    "undo",
    "valid_address",
    "wishes_of",
]
