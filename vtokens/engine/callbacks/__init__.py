"""What torch calls at each place on a model: the hooks of the model, of its decoder, and of its output layer."""
