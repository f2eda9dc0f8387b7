"""Tests of a whole Weirgate, started as a user starts it, with real clients and origins."""
