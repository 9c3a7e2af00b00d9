"""What the stages of a strategy see."""
