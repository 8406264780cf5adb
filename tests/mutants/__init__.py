"""Mutation testing: change one expression of a module, and check that a test fails."""
