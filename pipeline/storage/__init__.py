"""Storage: tables, queries and updates. Functions take a connection and never commit."""
