"""A server that makes meeting keys and hands them to those who may have them. See docs/distributing-keys.md."""
