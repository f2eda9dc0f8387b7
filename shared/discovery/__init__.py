"""Where endpoint addresses come from: ``dns`` resolves a name, ``watch`` keeps doing it."""
