"""What both tiers use.

Layout: ``config`` (schema and compiler), ``supervisor`` (one node's processes), ``control`` (the
HTTP control API), ``health`` and ``discovery`` (endpoint states), ``observability`` (metrics and
logs), ``cli``, ``demo``, ``testing``, and ``native`` (the door to the Rust extension).
"""
