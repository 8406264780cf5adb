"""News about deliveries that arrives later: bounces, complaints, and what else comes back.

`reading` turns the octets of one mail into a `Notice`; `mailboxes` finds the mails.
"""
