"""Recipes that answer a question about a picture in several passes: one file each, found by name (`registry`)."""
