"""Use cases of a subscription: subscribe, confirm, change, unsubscribe, export, erase.

    choices        choices of a subscriber (topics, schedule): validation and storage format
    abuse_limits   limits of mail to addresses that are not confirmed
    subscribe      the form stores a request, a POST of its token confirms it; consent versions
    preferences    change choices, pause, change the address, mail the preferences link
    reactions      more or less like a paper, save it; what is learned from that
    saved          the list of saved papers, and the private feeds of a reader
    own_papers     papers that a reader brings: read, stored, removed
    saved          the list of saved papers, its weekly mail, and the private feeds of a reader
    unsubscribe    unsubscribe with one click, and undo within a month
    personal_data  read, export, erase
    transfer       export and import of all subscribers, also from other newsletters
    reaction_transfer  reactions and settings of profiles in an export
    members        validation of the rows of a list
    csv_lists      parser for lists from spreadsheets and other newsletters

Each function that changes data runs in one transaction (an import in one per 500 rows), so a
process that is killed leaves nothing half done. Of two concurrent calls the second waits for the
row lock and then reads the new state; each UPDATE names the state it leaves.
"""

from pipeline.signup import csv_lists, transfer
from pipeline.signup.choices import Choices, parse_queries, valid_address
from pipeline.signup.own_papers import MOST_OWN, MOST_REQUESTED, OwnPapers
from pipeline.signup.own_papers import read as read_papers
from pipeline.signup.own_papers import remove as remove_paper
from pipeline.signup.personal_data import (
    PastDigest,
    PastSkip,
    Preferences,
    ask_data_link,
    choices_of,
    erase,
    erase_by_id,
    everyone,
    export,
    export_of,
    find,
)
from pipeline.signup.preferences import (
    add_topic,
    ask_link,
    ask_new_address,
    change,
    confirm_new_address,
    keep,
    pause,
    pause_of,
    pause_reason,
    replace_topic,
    start_from,
)
from pipeline.signup.reactions import (
    Interests,
    Learned,
    annotate,
    configure,
    forget,
    interests,
    is_learning,
    like,
    more_of,
    reaction_to,
    reset,
    save,
)
from pipeline.signup.saved import (
    create_feeds,
    digests_of,
    feed_digests,
    feed_papers,
    mail_weekly,
    revoke_feeds,
    saved_page,
    saved_papers,
)
from pipeline.signup.subscribe import (
    WORDING,
    Confirmed,
    Request,
    add,
    confirm,
    read_request,
    request_subscription,
)
from pipeline.signup.unsubscribe import UnsubscribeReason, leave, set_reason, undo

__all__ = [
    "MOST_OWN",
    "MOST_REQUESTED",
    "WORDING",
    "Choices",
    "Confirmed",
    "Interests",
    "Learned",
    "OwnPapers",
    "PastDigest",
    "PastSkip",
    "Preferences",
    "Request",
    "UnsubscribeReason",
    "add",
    "add_topic",
    "annotate",
    "ask_data_link",
    "ask_link",
    "ask_new_address",
    "change",
    "choices_of",
    "configure",
    "confirm",
    "confirm_new_address",
    "create_feeds",
    "csv_lists",
    "digests_of",
    "erase",
    "erase_by_id",
    "everyone",
    "export",
    "export_of",
    "feed_digests",
    "feed_papers",
    "find",
    "forget",
    "interests",
    "is_learning",
    "keep",
    "leave",
    "like",
    "mail_weekly",
    "more_of",
    "parse_queries",
    "pause",
    "pause_of",
    "pause_reason",
    "reaction_to",
    "read_papers",
    "read_request",
    "remove_paper",
    "replace_topic",
    "request_subscription",
    "reset",
    "revoke_feeds",
    "save",
    "saved_page",
    "saved_papers",
    "set_reason",
    "start_from",
    "transfer",
    "undo",
    "valid_address",
]
