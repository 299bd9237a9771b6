"""The page that people read: one HTML file about a folder of masks."""
