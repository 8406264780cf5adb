"""News about deliveries that arrives later: bounces, complaints, and what else comes back.

`reading` turns the octets of one mail into a `Notice`; `mailboxes`, `maildir` and `imap` find the
mails, `providers` read webhooks, and `applying` carries out what it all means.
"""
