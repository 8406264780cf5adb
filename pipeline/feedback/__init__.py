"""Feedback about deliveries: bounces, complaints, unsubscribe mails and provider events.

`mailboxes` and `imap` fetch the mails, and `bounces` parses one into a `Notice`; `webhooks` verify
and parse the events of providers. `process` applies each notice to the database, `intake` connects
these, and `suppression` has the commands of the operator.
"""
