"""Dependencies between channels of a network, and removal of channels."""
