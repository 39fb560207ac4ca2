"""Publishing with SQLAlchemy sessions of the user's own, and steps of code that is not async. See docs/adr/0052."""
