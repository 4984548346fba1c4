"""Draws backend values."""
