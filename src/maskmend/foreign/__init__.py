"""Segmentors that were trained elsewhere, and priors that are fitted to them afterwards."""
