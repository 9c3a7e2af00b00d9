"""Tests of the tensor operations, each against a plain computation that shares no code with it."""
