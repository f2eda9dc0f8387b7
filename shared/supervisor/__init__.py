"""One node: its listening sockets, its child processes, its configuration in force.

Layout: ``node`` (the whole, from start to exit), ``settings``, ``listeners`` and ``port_owner``
(binding), ``fleet``, ``children``, ``process``, ``backoff`` and ``watch`` (the child processes),
``endpoints`` (states by identity), ``shuns`` (sources refused for a while), ``reload``,
``readiness`` and ``arrival`` (when traffic flows), ``view`` and ``metrics`` (what the admin API
shows), ``tasks``, ``errors``.
"""
