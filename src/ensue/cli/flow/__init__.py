"""`ensue flow`: one business transaction across services, as text or as a diagram. See `ensue.operations.flow`."""
