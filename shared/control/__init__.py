"""The control API.

Layout: ``boot`` and ``child`` run in each child, ``client`` and ``admin`` in the supervisor,
``server`` in both.
"""
