"""Tests of vtokens; the folder mirrors the package."""
