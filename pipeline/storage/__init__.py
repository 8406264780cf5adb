"""What is kept, and how it changes. Functions take a connection and never commit."""
