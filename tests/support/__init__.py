"""Helpers of the tests: servers, factories, recorded answers."""
