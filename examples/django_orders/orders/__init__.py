"""The app of orders."""
