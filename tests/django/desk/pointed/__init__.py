"""A backend as PostGIS is one: it registers types of its own on each connection that it makes."""
