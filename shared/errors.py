"""The root of every exception that Weirgate raises on purpose."""


class WeirgateError(Exception):
    """Something that a caller may want to catch; its text is meant for the user."""
