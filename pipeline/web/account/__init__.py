"""Account pages, reached by the links in mails. GET only displays; changes need POST.

* confirm        confirm a subscription or a new address
* preferences    change topics and schedule, pause, see why no digest came
* start          start from one's own papers
* unsubscribe    one-click unsubscribe, with undo within 30 days
* digest_view    a sent digest in the browser
* personal_data  export, change of address, erasure; privacy page
* text           display texts of choices, dates, statuses and reasons
"""
