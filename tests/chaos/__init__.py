"""Tests that kill things under load and count who noticed."""
