"""What is refused before a pass, because strategies would be wrong in it."""
