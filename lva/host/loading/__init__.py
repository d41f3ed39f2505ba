"""A name becomes checked classes: finding, importing and checking files, and their configuration.

Public to the host: `load`, `finder`, `reload`, `files`. Imports from `delivery`, `routing` and below.
"""
