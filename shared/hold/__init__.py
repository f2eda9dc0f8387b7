"""Listening sockets that outlive the container of the node: ``weirgate hold`` in another one.

What a service manager's store is to a unit. ``holder`` keeps copies behind a Unix socket,
``store`` is the supervisor's end. The holder's container also owns the network namespace, so that
established connections live on, too.
"""
