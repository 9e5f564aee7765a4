"""Measures what the project promises. ``make bench`` prints figure, goal and verdict; nothing here is a test."""
