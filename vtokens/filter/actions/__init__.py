"""What is done about unsupported mentions while or after a response is written."""
