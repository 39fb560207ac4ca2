"""Of Django: Ensue's tables in a project's database."""
