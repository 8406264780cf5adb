"""Feedback about deliveries: bounces, complaints, unsubscribe mails and provider events.

`bounces` parses one mail into a `Notice`; `mailboxes` and `imap` fetch the mails, `webhooks`
verifies and parses events of providers, `intake` connects them, and `process` applies each notice
to the database.
"""
