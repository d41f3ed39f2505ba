"""Quart-Trio: requests and their points, the service's own resources, problem documents."""
