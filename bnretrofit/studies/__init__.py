"""What batch normalisation is said to do, each claim tried on small VGGs, with norms that this project inserts."""
