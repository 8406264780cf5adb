"""Feedback about deliveries: bounces, complaints, unsubscribe mails and provider events.

`reading` parses one mail into a `Notice`; `mailboxes`, `maildir` and `imap` fetch the mails,
`providers` verify and parse webhooks, `process` connects them, and `applying` applies each notice
to the database.
"""
