"""The demo and its bundled networks and images."""
