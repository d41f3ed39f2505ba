"""What is told of streams: events and points, metrics, the live feed, the receipt, the schemas of responses.

Used from outside: `account`, `api`, `callback_counts`, `feed`, `metrics`, `publishing`. Uses:
`supervision`, `registry`.
"""
