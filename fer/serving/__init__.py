"""The HTTP API and the web page, as an application for any ASGI server."""
