"""Files reduced to {key: shape}, computed for every producer and base model; the data are holes in a sparse file."""
