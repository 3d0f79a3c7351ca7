"""Images from pretrained networks alone: terms, mixing, the loop, and the data set it fills."""
