"""NumPy/SciPy float64 reference, written to be read against the papers; what is right is decided here."""
