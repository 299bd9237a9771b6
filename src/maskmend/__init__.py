"""Maskmend."""
