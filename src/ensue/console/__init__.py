"""Seeing and steering services over HTTP: what the console and the JSON API share, and the API.

Both are faces of `ensue.operations`, as the command line is. Nobody gets in without a way in that the host chooses.
"""
