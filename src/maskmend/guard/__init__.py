"""The guard: masks made in several ways, judged, and taken only where that promises enough."""
