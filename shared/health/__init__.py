"""Active health checks.

Layout: ``check`` (what to do, from the snapshot), ``probe`` (one check of one endpoint),
``response`` (a strict HTTP/1.1 reader), ``state`` (rise and fall), ``prober`` (when to do it).
"""
