"""Small programs that make and CI call."""
