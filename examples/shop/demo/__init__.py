"""`python -m shop.demo`: a real shop's year through three services on one machine, killed at will, nothing lost."""
