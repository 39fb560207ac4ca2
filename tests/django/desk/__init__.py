"""An application of Django's, whose handlers each test declares."""
