"""A page for trying a server by hand: static files, no request to anywhere but the server itself."""
