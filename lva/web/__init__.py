"""Quart-Trio: requests and their points, the service's own resources, problem documents.

The rooms stand one above the other: `handling` (one request, to a plugin's handler and back), `resources`
(what the service itself answers). `problems`, which both use, is in none; `console` has the pages' scripts.
"""
