"""What the embedded store and the embedded broker share: SQLite connections, and waking other processes."""
