"""The sign-up form, with its preview, and the curated topics that it offers."""
