"""What the method is compared with: one prior or method of another paper a file."""
