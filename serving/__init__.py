"""Releases meet users, and answers come back."""
