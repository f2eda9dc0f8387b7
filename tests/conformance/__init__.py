"""Conformance tables for HTTP/1.1 framing, and the test that runs each row through Weirgate."""
