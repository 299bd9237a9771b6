"""Files on disk to slices for the networks, and back."""
