"""Segmentation models that were not trained here, each format read by a module of its own."""
