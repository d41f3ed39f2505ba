"""The service's own resources: what answers them, and the one table (`table`) that says what there is.

Used from outside: `access`, `assets`, `streams`, `table`. Uses: `handling`.
"""
