"""What in a response the image does not support: mentions, signals, calibrated probabilities, and actions on them."""
