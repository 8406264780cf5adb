"""Mutation testing: change one expression of a module, and see whether a test fails."""
