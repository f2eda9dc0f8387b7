"""Weirgate: one load balancer in two tiers, an L4 edge and a pool of L7 gateways.

Layout: ``weirgate.edge`` (layer 4), ``weirgate.appgw`` (layer 7), ``weirgate.shared`` (what both
use: configuration, supervisor, health, control API, CLI) and ``weirgate._native`` (the Rust data
planes). ``edge`` and ``appgw`` never import each other.
"""
