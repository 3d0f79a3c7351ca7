"""Which channels of a network depend on each other, and a network without some of them."""
