"""Asking a vision-language model about pictures, and reading what it writes."""
