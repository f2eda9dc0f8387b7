"""One node: its listening sockets, its child processes, its configuration in force.

Layout: ``node`` (the whole, from start to exit), ``announcement`` (what it says when it is ready),
``shutdown``, ``settings``, ``listeners`` and ``port_owner`` (binding), ``fleet``, ``children``,
``process``, ``backoff`` and ``watch`` (the child processes), ``launches``, ``shared_memory``,
``handoffs`` and ``edges`` (what they are started with and share), ``upgrade`` and ``succession``
(one edge process after another), ``draining`` and ``finishing`` (how they finish), ``snapshots``
(the one in force), ``endpoints`` and ``endpoint_updates`` (states by identity), ``shuns`` and
``shun_updates`` (sources refused for a while), ``reload``, ``readiness`` and ``arrival`` (when
traffic flows), ``administration``, ``view`` and ``metrics`` (what the admin API shows), ``tasks``,
``errors``.
"""
