"""What in this host would hold a configuration back, and the command that mends it.

Layout: ``host`` reads the kernel's and the process's settings below a directory (``/proc``),
``needs`` says what a configuration asks of them, ``checks`` has one module for each group, and
``finding`` is what they find. Nothing is changed, nothing needs root.
"""
