"""Views: which version of one is asked, which is fed, and when another one may take over. Pure rules over values."""
