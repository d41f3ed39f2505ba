"""The plugin host: loads plugins, supervises their lives and carries points; knows no HTTP server."""
