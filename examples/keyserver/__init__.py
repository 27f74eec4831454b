"""A server that makes meeting keys and hands them to those who may have them. See docs/guide/distributing-keys.md."""
