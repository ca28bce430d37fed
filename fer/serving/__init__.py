"""The HTTP API and its page, for any ASGI server."""
