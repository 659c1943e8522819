"""Starts the real parts that changeover works with, on this computer. README.md says what and how."""
