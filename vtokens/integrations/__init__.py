"""Strategies in engines that run the decoder themselves: what is chosen between vision tower and decoder."""
