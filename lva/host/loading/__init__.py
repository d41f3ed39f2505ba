"""A name becomes checked classes: finding, importing and checking files, and their configuration.

Used from outside: `files`, `finder`, `installed`, `load`, `reload`. Uses: `delivery`, `plugin_modules`,
`process`.
"""
