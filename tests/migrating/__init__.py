"""Moving from nginx, HAProxy and Traefik: what examples/from says is run on all that can be had.

Layout: ``expected`` is the table of what clients see, product by product; ``site`` starts a
product from an example's file; ``web_cases`` and ``stream_cases`` do what a client does and say
what it saw; ``page`` writes files and table into docs/migrating.md.
"""
