"""Tests of laws that hold for every input, with inputs made by hypothesis."""
