"""Configurations in, snapshots or messages out, compared with what is kept beside them."""
