"""The loops: relay, consumer, leases, retention. They fetch, ask the pure rules, and store."""
