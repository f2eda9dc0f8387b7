"""Tests: unit, property, golden, conformance, integration and chaos; ``support`` serves them."""
