"""The HTTP API above the live path: requests in, problems out, pages and documents."""
