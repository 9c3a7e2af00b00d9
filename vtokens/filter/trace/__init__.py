"""What a pass over a response leaves behind, and how it is recorded."""
