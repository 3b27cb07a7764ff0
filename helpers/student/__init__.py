"""A student that answers: in this process, or behind a server. Every answer goes to the ledger."""
