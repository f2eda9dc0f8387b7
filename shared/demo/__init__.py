"""The demo: ``weirgate demo`` runs a whole node with small applications behind it.

Layout: ``apps`` and ``line_app`` are the applications, ``site`` starts them and Weirgate with a
configuration and a certificate made on the spot, ``tour`` is what there is to try, each row with
a check, and ``main`` puts them together.
"""
