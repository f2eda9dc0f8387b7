"""Active health checks.

Layout: ``check`` (what to do, from the snapshot), ``probe`` (one check of one endpoint) with a file
for each kind (``http``, ``tcp``, ``grpc``, ``node``), ``exchange`` (a check's connection),
``response`` (a strict HTTP/1.1 reader), ``state`` (rise and fall), ``prober`` (when to do it).
"""
