"""Methods of compression, which `compress` applies one after another."""
