"""Choosing tokens between vision tower and decoder, for engines that run the decoder themselves."""
