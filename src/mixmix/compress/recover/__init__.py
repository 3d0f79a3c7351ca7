"""What a network loses by pruning is won back from the network that it was made from."""
