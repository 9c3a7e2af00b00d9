"""Loading models, processors and saved strategies by name."""
