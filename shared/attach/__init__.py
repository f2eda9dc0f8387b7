"""Gateways in other containers of the same host, which attach themselves to a node.

``messages`` is what both ends say, ``seats`` the supervisor's end, ``host`` the other one: it runs
in a gateway's container and keeps one process there. The sockets of clients come over the handoff
queue as ever; only who spawns the process differs.
"""
